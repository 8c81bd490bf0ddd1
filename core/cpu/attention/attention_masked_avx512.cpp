#include "core/cpu/attention/attention_masked.h"
#include "core/cpu/simd/lanes_avx512.h"

namespace tandem::core {

const MaskedKernels kMaskedAvx512 =
    MaskedAttentionOf<Avx512Lanes, kAvx512Accumulators>::kMaskedTable;

}  // namespace tandem::core
