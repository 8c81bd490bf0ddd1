#include "tests/core/cuda/thread_order.h"

#include "tests/cuda_emulation/streams.h"

namespace tandem::testing {

void SetThreadOrder(uint64_t seed) { cuda_emulation::SetSeed(seed); }

}  // namespace tandem::testing
