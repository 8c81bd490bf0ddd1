#include "core/cpu/attention/attention_kernels.h"
#include "core/cpu/simd/lanes_avx512.h"

namespace tandem::core {

const ChunkKernel kFloat8ChunkAvx512 = AttentionOf<Avx512Lanes, kAvx512Accumulators>::Chunk<Float8>;

}  // namespace tandem::core
