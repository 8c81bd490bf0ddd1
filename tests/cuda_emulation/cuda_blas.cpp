#include "core/cuda/blas/cuda_blas.h"

#include <cuda_runtime.h>

#include "core/cuda/kernels/device_code.h"
#include "core/cuda/kernels/launch.h"

namespace tandem::core {
namespace {

__global__ void MultiplyKernel(CudaBlas::Product product) {
  BeginKernel();
  const auto value = [](uint16_t bits) { return __uint_as_float(uint32_t{bits} << 16); };
  const int64_t token = blockIdx.y;
  const int64_t row = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (row >= product.rows) return;
  float sum = 0.0F;
  for (int64_t i = 0; i < product.columns; ++i) {
    sum += value(product.weights[row * product.columns + i]) *
           value(product.x[token * product.columns + i]);
  }
  product.out[token * product.out_stride + row] = sum;
}

/// What cuBLASLt does, as a kernel of the emulation.
class EmulatedBlas final : public CudaBlas {
 public:
  bool Multiply(CudaStream stream, const Product& product) override {
    Launch(stream, {Blocks(product.rows, 64), Blocks(product.tokens, 1)}, 64, 0, MultiplyKernel,
           product);
    return true;
  }
};

}  // namespace

absl::StatusOr<std::unique_ptr<CudaBlas>> OpenCudaBlas() {
  return std::make_unique<EmulatedBlas>();
}

}  // namespace tandem::core
