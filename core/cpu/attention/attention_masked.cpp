#include "core/cpu/attention/attention_masked.h"

namespace tandem::core {

const MaskedKernels kMaskedScalar =
    MaskedAttentionOf<ScalarLanes<kLanes>, kAvx2Accumulators>::kMaskedTable;
const MaskedKernels kMaskedAvx2 = MaskedAttentionOf<Avx2Lanes, kAvx2Accumulators>::kMaskedTable;

}  // namespace tandem::core
