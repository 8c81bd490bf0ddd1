#include "core/cpu/attention/infini_kernels.h"
#include "core/cpu/simd/lanes_avx512.h"

namespace tandem::core {

const InfiniKernels kInfiniAvx512 = InfiniOf<Avx512Lanes>::kTable;

}  // namespace tandem::core
