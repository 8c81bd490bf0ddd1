#include "core/cuda/kernels/elementwise_kernels.h"
#include "core/cuda/kernels/launch.h"
#include "core/cuda/kernels/linear_kernels.h"
#include "core/cuda/kernels/linear_products.h"

namespace tandem::core {
namespace {

void LaunchProduct(CudaStream stream, const TileMatrix& weights, const ProductInput& x,
                   const ProductOutput& out) {
  if (weights.rows == 0 || x.tokens == 0) return;
  if (!TileFormatOf(weights.dtype).quantized()) {
    LaunchFloatProduct(stream, weights, x, out);
  } else if (x.tokens <= kMostRowTokens) {
    LaunchRowProduct(stream, weights, x, out);
  } else {
    LaunchMatrixProduct(stream, weights, x, out);
  }
}

void Clear(CudaStream stream, int64_t* values, int64_t count) {
  if (count == 0) return;
  CheckCuda(cudaMemsetAsync(values, 0, static_cast<size_t>(count) * sizeof(int64_t), stream),
            "cudaMemsetAsync");
}

}  // namespace

void LaunchLinear(CudaStream stream, const TileMatrix& weights, const ProductInput& x, float* out) {
  LaunchProduct(stream, weights, x, {.out = out, .partial_columns = weights.columns});
}

void LaunchLinearPartialSums(CudaStream stream, const TileMatrix& weights, const ProductInput& x,
                             int64_t partial_columns, int64_t* sums, int64_t* failed) {
  Clear(stream, sums, x.tokens * weights.rows);
  Clear(stream, failed, x.tokens);
  LaunchProduct(stream, weights, x,
                {.sums = sums, .failed = failed, .partial_columns = partial_columns});
}

void LaunchGatedLinear(CudaStream stream, const GatedMatrices& weights, const ProductInput& x,
                       float* out, float* scratch) {
  const DType dtype = weights.up.dtype;
  if (dtype == weights.gate.dtype && TileFormatOf(dtype).quantized() &&
      x.tokens <= kMostRowTokens) {
    return LaunchGatedRowProduct(stream, weights, x, out);
  }
  LaunchLinear(stream, weights.gate, x, out);
  LaunchLinear(stream, weights.up, x, scratch);
  LaunchGatedActivation(stream, weights.kind, out, scratch, x.tokens * weights.up.rows, out);
}

}  // namespace tandem::core
