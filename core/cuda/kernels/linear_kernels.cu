#include <algorithm>

#include "core/cuda/kernels/elementwise_kernels.h"
#include "core/cuda/kernels/launch.h"
#include "core/cuda/kernels/linear_kernels.h"
#include "core/cuda/kernels/linear_products.h"

namespace tandem::core {
namespace {

/// As many of the first products as can be made together.
JoinedMatrices Join(std::span<const LinearProduct> products) {
  const TileMatrix& first = products.front().weights;
  JoinedMatrices joined{.parts = {},
                        .dtype = first.dtype,
                        .tile_bytes = first.tile_bytes,
                        .first_block = first.first_block};
  int64_t tiles = 0;
  for (size_t i = 0; i < size_t{kMostJoined}; ++i) {
    JoinedMatrices::Part& part = joined.parts[i];
    if (i < products.size()) {
      const TileMatrix& weights = products[i].weights;
      tiles += (weights.rows + kTileRows - 1) / kTileRows;
      part = {weights.tiles, 0, weights.rows, products[i].out};
    }
    part.end_tile = tiles;
  }
  return joined;
}

bool CanJoin(const TileMatrix& a, const TileMatrix& b) {
  return a.dtype == b.dtype && a.columns == b.columns && a.first_block == b.first_block;
}

void Clear(CudaStream stream, int64_t* values, int64_t count) {
  if (count == 0) return;
  CheckCuda(cudaMemsetAsync(values, 0, static_cast<size_t>(count) * sizeof(int64_t), stream),
            "cudaMemsetAsync");
}

}  // namespace

void LaunchLinear(CudaStream stream, const TileMatrix& weights, const ProductInput& x, float* out) {
  const LinearProduct product = {weights, out};
  LaunchLinear(stream, {&product, 1}, x);
}

void LaunchLinear(CudaStream stream, std::span<const LinearProduct> products,
                  const ProductInput& x) {
  if (x.tokens == 0) return;
  while (!products.empty()) {
    const TileMatrix& first = products.front().weights;
    if (!TileFormatOf(first.dtype).quantized()) {
      if (first.rows > 0) {
        LaunchFloatProduct(stream, first, x,
                           {.out = products.front().out, .partial_columns = first.columns});
      }
      products = products.subspan(1);
      continue;
    }
    size_t count = 1;
    while (count < std::min(products.size(), size_t{kMostJoined}) &&
           CanJoin(first, products[count].weights)) {
      ++count;
    }
    const JoinedMatrices joined = Join(products.first(count));
    products = products.subspan(count);
    if (joined.tiles() == 0) continue;
    if (x.tokens <= kMostRowTokens) {
      LaunchRowProduct(stream, joined, x);
    } else {
      LaunchMatrixProduct(stream, joined, x);
    }
  }
}

void LaunchLinearPartialSums(CudaStream stream, const TileMatrix& weights, const ProductInput& x,
                             int64_t partial_columns, int64_t* sums, int64_t* failed) {
  Clear(stream, sums, x.tokens * weights.rows);
  Clear(stream, failed, x.tokens);
  if (weights.rows == 0 || weights.columns == 0 || x.tokens == 0) return;
  const ProductOutput out = {.sums = sums, .failed = failed, .partial_columns = partial_columns};
  if (!TileFormatOf(weights.dtype).quantized()) {
    return LaunchFloatProduct(stream, weights, x, out);
  }
  const LinearProduct product = {weights, nullptr};
  if (x.tokens <= kMostRowTokens) {
    LaunchRowPartialSums(stream, Join({&product, 1}), x, out);
  } else {
    LaunchMatrixPartialSums(stream, Join({&product, 1}), x, out);
  }
}

void LaunchGatedLinear(CudaStream stream, const GatedMatrices& weights, const ProductInput& x,
                       float* out, float* scratch) {
  const DType dtype = weights.up.dtype;
  if (dtype == weights.gate.dtype && TileFormatOf(dtype).quantized() &&
      x.tokens <= kMostRowTokens) {
    return LaunchGatedRowProduct(stream, weights, x, out);
  }
  const LinearProduct products[] = {{weights.gate, out}, {weights.up, scratch}};
  LaunchLinear(stream, products, x);
  LaunchGatedActivation(stream, weights.kind, out, scratch, x.tokens * weights.up.rows, out);
}

}  // namespace tandem::core
