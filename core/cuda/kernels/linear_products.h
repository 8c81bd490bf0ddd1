#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/cpu/linear/linear_kernel.h"
#include "core/cuda/kernels/tile_matrix.h"

/// Private to linear_kernels.cu and matrix_products.cu: where products go.
namespace tandem::core {

struct ProductOutput {
  float* out = nullptr;     // [tokens, rows]; null: partial sums are wanted
  int64_t* sums = nullptr;  // [tokens, rows]
  int64_t* failed = nullptr;
  int64_t partial_columns = 0;
};

/// Adds partial sums up (rule 3).
template <int kTokens>
struct PartialSumTotals {
  int64_t sums[kTokens] = {};
  uint32_t failed = 0;  // bit t

  __device__ void Add(const float (&partial)[kTokens]) {
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      if (partial[t] < kPartialSumLimit && partial[t] > -kPartialSumLimit) {
        sums[t] += __float2ll_rn(partial[t] * kPartialSumScale);
      } else {
        failed |= 1U << t;
      }
    }
  }
};

/// What LaunchLinear does for more than kMostRowTokens tokens and quantized weights: tensor cores
/// multiply the codes of 16 rows and 8 tokens, one block of columns at a time. The same bits.
void LaunchMatrixProduct(CudaStream stream, const TileMatrix& weights, const ProductInput& x,
                         const ProductOutput& out);
inline constexpr int64_t kMostRowTokens = 8;

}  // namespace tandem::core
