#pragma once

#include <cstdint>
#include <optional>

namespace tandem::testing {

/// Under emulation, another order of threads and blocks for launches from now on. A GPU has its
/// own.
void SetThreadOrder(uint64_t seed);

/// Bytes that all GPUs have given to the host so far. Nothing on real ones, which do not count.
std::optional<uint64_t> BytesToHost();

}  // namespace tandem::testing
