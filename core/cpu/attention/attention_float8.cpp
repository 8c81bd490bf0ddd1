#include "core/cpu/attention/attention_kernels.h"

namespace tandem::core {

const ChunkKernel kFloat8ChunkScalar =
    AttentionOf<ScalarLanes<kLanes>, kAvx2Accumulators>::Chunk<Float8>;
const ChunkKernel kFloat8ChunkAvx2 = AttentionOf<Avx2Lanes, kAvx2Accumulators>::Chunk<Float8>;

}  // namespace tandem::core
