#pragma once

#include <cstdint>

namespace tandem::testing {

/// Under emulation, another order of threads and blocks for launches from now on. A GPU has its
/// own.
void SetThreadOrder(uint64_t seed);

}  // namespace tandem::testing
