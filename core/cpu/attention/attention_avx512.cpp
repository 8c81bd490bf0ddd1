#include "core/cpu/attention/attention_kernels.h"
#include "core/cpu/simd/lanes_avx512.h"

namespace tandem::core {

const AttentionKernels kAttentionAvx512 = AttentionOf<Avx512Lanes, kAvx512Accumulators>::kTable;

}  // namespace tandem::core
