#include "core/cuda/cuda_dense_products.h"

#include <algorithm>
#include <utility>

#include "core/cpu/linear/tile_format.h"
#include "core/cuda/kernels/dense_kernels.h"
#include "core/cuda/workspace_limits.h"

namespace tandem::core {
namespace {

// With fewer tokens the bytes of quantized weights, not the products, take the time.
constexpr int64_t kManyTokens = 64;

}  // namespace

absl::StatusOr<std::unique_ptr<CudaDenseProducts>> CudaDenseProducts::Create(CudaMemory& memory) {
  TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<CudaBlas> blas, OpenCudaBlas());
  return std::unique_ptr<CudaDenseProducts>(new CudaDenseProducts(memory, std::move(blas)));
}

bool CudaDenseProducts::Wants(DType dtype, int64_t tokens) {
  return tokens > 0 && (!TileFormatOf(dtype).quantized() || tokens > kManyTokens);
}

void CudaDenseProducts::SetInput(const ProductInput& x) {
  input_ = x;
  converted_ = false;
}

bool CudaDenseProducts::Multiply(const TileMatrix& weights, float* out) {
  const CudaStream stream = memory_.stream();
  if (weights.rows == 0) return true;
  if (input_.tokens <= kMostFastRowTokens) {
    LaunchFastFloatLinear(stream, weights, input_, out);
    return true;
  }
  if (!std::exchange(converted_, true)) {
    x_.SetRows(input_.tokens * weights.columns);
    LaunchToBfloat16(stream, input_.x, x_.rows(), x_.data());
  }
  const int64_t most_rows =
      std::max<int64_t>(kMostExpandedWeights / std::max<int64_t>(weights.columns, 1) / kTileRows,
                        1) *
      kTileRows;
  for (int64_t row = 0; row < weights.rows; row += most_rows) {
    const int64_t rows = std::min(most_rows, weights.rows - row);
    weights_.SetRows(rows * weights.columns);
    LaunchExpandToBfloat16(stream, weights, row, rows, weights_.data());
    if (!blas_->Multiply(stream, {.weights = weights_.data(),
                                  .x = x_.data(),
                                  .rows = rows,
                                  .tokens = input_.tokens,
                                  .columns = weights.columns,
                                  .out = out + row,
                                  .out_stride = weights.rows})) {
      return false;
    }
  }
  return true;
}

bool CudaDenseProducts::MultiplyToPartialSums(const TileMatrix& weights, int64_t* sums,
                                              int64_t* failed) {
  sums_.SetRows(input_.tokens * weights.rows);
  if (!Multiply(weights, sums_.data())) return false;
  LaunchToPartialSums(memory_.stream(), sums_.data(), input_.tokens, weights.rows, sums, failed);
  return true;
}

}  // namespace tandem::core
