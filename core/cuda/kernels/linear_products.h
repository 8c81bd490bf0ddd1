#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "core/cpu/linear/linear_kernel.h"
#include "core/cuda/kernels/tile_matrix.h"

/// Private to the kernels of products: which there are, and where their results go.
namespace tandem::core {

/// Adds partial sums up (rule 3).
template <int kSums>
struct PartialSumTotals {
  int64_t sums[kSums] = {};
  uint32_t failed = 0;  // bit i

  __device__ void Add(int i, float partial) {
    if (partial < kPartialSumLimit && partial > -kPartialSumLimit) {
      sums[i] += __float2ll_rn(partial * kPartialSumScale);
    } else {
      failed |= 1U << i;
    }
  }
  __device__ void Clear(int i) {
    sums[i] = 0;
    failed &= ~(1U << i);
  }
};

struct ProductOutput {
  float* out = nullptr;     // [tokens, rows]; null: partial sums are wanted, as below
  int64_t* sums = nullptr;  // [tokens, rows], zero before
  int64_t* failed = nullptr;
  int64_t partial_columns = 0;

  /// Adds a total to its row, and its failure to those of its token.
  template <int kSums>
  __device__ void Add(const PartialSumTotals<kSums>& totals, int i, int64_t row, int64_t token,
                      int64_t rows) const {
    AddTo(sums + token * rows + row, totals.sums[i]);
    if ((totals.failed >> i & 1) != 0) AddTo(failed + token, 1);
  }

 private:
  static __device__ void AddTo(int64_t* at, int64_t value) {
    atomicAdd(reinterpret_cast<unsigned long long*>(at), static_cast<unsigned long long>(value));
  }
};

/// Of a token's codes in a block, or in the half `step` of it. at: token * x.blocks + block
template <int kSteps>
__device__ int32_t SumOf(const CodeRows& x, int64_t at, int step) {
  return kSteps == 2 ? x.sums[2 * at + step] : x.sums[2 * at] + x.sums[2 * at + 1];
}

/// Quantized matrices of one type and as many columns, which are multiplied with the same input
/// together: their tiles are counted through.
struct JoinedMatrices {
  struct Part {
    const std::byte* tiles = nullptr;
    int64_t end_tile = 0;
    int64_t rows = 0;
    float* out = nullptr;  // [tokens, rows]
  };
  Part parts[kMostJoined];  // what is not there ends where the last one does
  DType dtype = DType::kQ4_0;
  int64_t tile_bytes = 0;
  int64_t first_block = 0;

  __device__ int PartOf(int64_t tile) const {
    int part = 0;
#pragma unroll
    for (int i = 0; i < kMostJoined - 1; ++i) part += tile >= parts[i].end_tile ? 1 : 0;
    return part;
  }
  __device__ int64_t FirstTileOf(int part) const {
    return part == 0 ? 0 : parts[part - 1].end_tile;
  }
  __device__ const std::byte* TileAt(int64_t tile) const {
    const int part = PartOf(tile);
    return parts[part].tiles + (tile - FirstTileOf(part)) * tile_bytes;
  }
  int64_t tiles() const { return parts[kMostJoined - 1].end_tile; }
};

/// Quantized weights and at most kMostRowTokens tokens. The last bits are the same in all forms.
void LaunchRowProduct(CudaStream stream, const JoinedMatrices& weights, const ProductInput& x);
void LaunchRowPartialSums(CudaStream stream, const JoinedMatrices& weights, const ProductInput& x,
                          const ProductOutput& out);
void LaunchGatedRowProduct(CudaStream stream, const GatedMatrices& weights, const ProductInput& x,
                           float* out);
inline constexpr int64_t kMostRowTokens = 8;

/// Quantized weights and more tokens.
void LaunchMatrixProduct(CudaStream stream, const JoinedMatrices& weights, const ProductInput& x);
void LaunchMatrixPartialSums(CudaStream stream, const JoinedMatrices& weights,
                             const ProductInput& x, const ProductOutput& out);

/// Weights of floats (rule 1).
void LaunchFloatProduct(CudaStream stream, const TileMatrix& weights, const ProductInput& x,
                        const ProductOutput& out);

/// Calls launch(std::integral_constant<DType, dtype>()) for a quantized type.
template <typename LaunchType>
void ForQuantized(DType dtype, const LaunchType& launch) {
  switch (dtype) {
    case DType::kQ4_0:
      return launch(std::integral_constant<DType, DType::kQ4_0>());
    case DType::kQ4_1:
      return launch(std::integral_constant<DType, DType::kQ4_1>());
    case DType::kQ5_0:
      return launch(std::integral_constant<DType, DType::kQ5_0>());
    case DType::kQ5_1:
      return launch(std::integral_constant<DType, DType::kQ5_1>());
    case DType::kQ8_0:
      return launch(std::integral_constant<DType, DType::kQ8_0>());
    case DType::kQ2_K:
      return launch(std::integral_constant<DType, DType::kQ2_K>());
    case DType::kQ3_K:
      return launch(std::integral_constant<DType, DType::kQ3_K>());
    case DType::kQ4_K:
      return launch(std::integral_constant<DType, DType::kQ4_K>());
    case DType::kQ5_K:
      return launch(std::integral_constant<DType, DType::kQ5_K>());
    case DType::kQ6_K:
      return launch(std::integral_constant<DType, DType::kQ6_K>());
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
      return;
  }
}

/// The same for a type of floats.
template <typename LaunchType>
void ForFloats(DType dtype, const LaunchType& launch) {
  if (dtype == DType::kF32) return launch(std::integral_constant<DType, DType::kF32>());
  if (dtype == DType::kF16) return launch(std::integral_constant<DType, DType::kF16>());
  if (dtype == DType::kBF16) return launch(std::integral_constant<DType, DType::kBF16>());
}

}  // namespace tandem::core
