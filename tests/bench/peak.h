#pragma once

#include <cstddef>
#include <cstdint>

/// What the machine can do at most.
namespace tandem::bench {

/// Reads every byte of `bytes` (a multiple of 256).
int64_t SumBytes(const std::byte* data, int64_t bytes);

/// Runs `vpdpbusd` on registers `rounds` times 16 and returns the multiply-adds done. Needs
/// AVX-512 VNNI.
int64_t Int8PeakAvx512(int64_t rounds);

}  // namespace tandem::bench
