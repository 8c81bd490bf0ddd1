#include "core/cpu/elementwise/elementwise_kernels.h"
#include "core/cpu/simd/lanes_avx512.h"

namespace tandem::core {

const ElementwiseKernels kElementwiseAvx512 = ElementwiseOf<Avx512Lanes>::kTable;

}  // namespace tandem::core
