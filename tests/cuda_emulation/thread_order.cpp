#include "tests/core/cuda/thread_order.h"

#include "tests/cuda_emulation/streams.h"

namespace tandem::testing {

void SetThreadOrder(uint64_t seed) { cuda_emulation::SetSeed(seed); }

std::optional<uint64_t> BytesToHost() { return cuda_emulation::BytesToHost(); }

}  // namespace tandem::testing
