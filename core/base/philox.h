#pragma once

#include <array>
#include <cstdint>

namespace tandem::core {

/// Philox4x32-10: 128 random bits of a counter and a key, without state. Source: Salmon et al.
/// 2011, "Parallel random numbers: as easy as 1, 2, 3".
std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

}  // namespace tandem::core
