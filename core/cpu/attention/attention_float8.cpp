#include "core/cpu/attention/attention_kernels.h"

namespace tandem::core {

ChunkKernel Float8Chunk(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      break;
    case Isa::kAvx2:
      return AttentionOf<Avx2Lanes, kAvx2Accumulators>::Chunk<Float8>;
    case Isa::kAvx512:
      return kFloat8ChunkAvx512;
  }
  return AttentionOf<ScalarLanes<kLanes>, kAvx2Accumulators>::Chunk<Float8>;
}

}  // namespace tandem::core
