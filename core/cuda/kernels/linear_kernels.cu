#include "core/cuda/kernels/gpu_tile.h"
#include "core/cuda/kernels/launch.h"
#include "core/cuda/kernels/linear_kernels.h"
#include "core/cuda/kernels/linear_products.h"

namespace tandem::core {
namespace {

constexpr unsigned kThreads = 128;  // rows of a block: eight tiles
constexpr int kBlocksTogether = 3;  // on a processor: leaves enough registers to spill none
constexpr int kTokensTogether = kMostRowTokens;  // that a thread multiplies with what it reads

/// sums += the products of block b of one row with `tokens` tokens from `first` on (rule 2).
template <DType kDtype, int kTokens>
__device__ void MultiplyBlock(const TileWalk<kDtype>& walk, int lane, const CodeRows& x,
                              int64_t first, int tokens, int64_t b, float (&sums)[kTokens]) {
  constexpr TileFormat kFormat = TileOf<kDtype>::kFormat;
  constexpr int kSteps = kFormat.scales_per_block;
  // Codes of 8 bits are made signed as they are read.
  constexpr int kZeroPoint = kFormat.code_bits == 8 ? 0 : kFormat.zero_point;
  const std::byte* codes = walk.block + kLaneBytes * lane;
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    int32_t products[kTokens] = {};
#pragma unroll
    for (int half = kSteps == 2 ? step : 0; half < (kSteps == 2 ? step + 1 : 2); ++half) {
#pragma unroll
      for (int group = 0; group < 4; ++group) {
        const int32_t w = LoadCodes<kFormat.code_bits>(codes, half, group);
#pragma unroll
        for (int t = 0; t < kTokens; ++t) {
          if (t >= tokens) continue;
          const int8_t* of_block = x.codes + ((first + t) * x.blocks + b) * kBlockColumns;
          const auto* fours = reinterpret_cast<const int32_t*>(of_block);
          products[t] = __dp4a(w, fours[4 * half + group], products[t]);
        }
      }
    }
    const ScaleOffset of_row =
        LoadScale<kDtype>(walk.block + TileOf<kDtype>::kCodeBytes, walk.header, lane, step);
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      if (t >= tokens) continue;
      const int64_t at = (first + t) * x.blocks + b;
      const float scale = x.scales[at];
      const int32_t sum = kSteps == 2 ? x.sums[2 * at + step] : x.sums[2 * at] + x.sums[2 * at + 1];
      sums[t] =
          fmaf(of_row.scale * scale, static_cast<float>(products[t] - kZeroPoint * sum), sums[t]);
      if constexpr (kFormat.has_offset) {
        sums[t] = fmaf(of_row.offset * scale, static_cast<float>(sum), sums[t]);
      }
    }
  }
}

template <DType kDtype>
__device__ float LoadElement(const std::byte* column, int lane) {
  if constexpr (kDtype == DType::kF32) {
    return LoadAs<float>(column + 4 * lane);
  } else if constexpr (kDtype == DType::kF16) {
    return LoadHalf(column + 2 * lane);
  } else {
    return __uint_as_float(uint32_t{LoadAs<uint16_t>(column + 2 * lane)} << 16);
  }
}

/// sums += the products of the columns [begin, end) of a block of float weights (rule 1).
template <DType kDtype, int kTokens>
__device__ void MultiplyColumns(const std::byte* block, int lane, const float* x, int64_t stride,
                                int tokens, int64_t begin, int64_t end, float (&sums)[kTokens]) {
  constexpr int64_t kColumnBytes = int64_t{kTileRows} * TileOf<kDtype>::kFormat.element_bytes;
  for (int64_t column = begin; column < end; ++column) {
    const float w = LoadElement<kDtype>(block, lane);
    block += kColumnBytes;
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      if (t < tokens) sums[t] = fmaf(w, x[t * stride + column], sums[t]);
    }
  }
}

/// A thread multiplies one row with kTokens tokens.
template <DType kDtype, int kTokens>
__global__ void __launch_bounds__(kThreads, kBlocksTogether)
    ProductKernel(TileMatrix weights, ProductInput x, ProductOutput out) {
  const int64_t row = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (row >= weights.rows) return;
  const int lane = static_cast<int>(row % kTileRows);
  const int64_t first = int64_t{blockIdx.y} * kTokens;
  const int64_t left = x.tokens - first;
  const int tokens = left < kTokens ? static_cast<int>(left) : kTokens;
  TileWalk<kDtype> walk(weights.tiles + row / kTileRows * weights.tile_bytes, weights.first_block);
  PartialSumTotals<kTokens> totals;
  int64_t column = 0;
  do {
    float sums[kTokens] = {};
    const int64_t rest = weights.columns - column;
    const int64_t end = column + (rest < out.partial_columns ? rest : out.partial_columns);
    for (; column < end; column += kBlockColumns, walk.Next()) {
      if constexpr (TileOf<kDtype>::kFormat.code_bits != 0) {
        MultiplyBlock<kDtype>(walk, lane, x.codes, first, tokens, column / kBlockColumns, sums);
      } else {
        const int64_t block_end = column + kBlockColumns;
        MultiplyColumns<kDtype>(walk.block, lane, x.x + first * weights.columns, weights.columns,
                                tokens, column, block_end < end ? block_end : end, sums);
      }
    }
    if (out.out == nullptr) {
      totals.Add(sums);
    } else {
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        if (t < tokens) out.out[(first + t) * weights.rows + row] = sums[t];
      }
    }
  } while (column < weights.columns);
  if (out.out != nullptr) return;
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    if (t >= tokens) continue;
    out.sums[(first + t) * weights.rows + row] = totals.sums[t];
    if ((totals.failed >> t & 1) == 0) continue;
    atomicAdd(reinterpret_cast<unsigned long long*>(out.failed + first + t), 1ULL);
  }
}

template <DType kDtype>
void LaunchProductOf(CudaStream stream, const TileMatrix& weights, const ProductInput& x,
                     const ProductOutput& out) {
  if (TileOf<kDtype>::kFormat.quantized() && x.tokens > kMostRowTokens) {
    return LaunchMatrixProduct(stream, weights, x, out);
  }
  const unsigned rows = Blocks(weights.rows, kThreads);
  if (x.tokens == 1) {
    Launch(stream, rows, kThreads, 0, ProductKernel<kDtype, 1>, weights, x, out);
  } else {
    Launch(stream, {rows, Blocks(x.tokens, kTokensTogether)}, kThreads, 0,
           ProductKernel<kDtype, kTokensTogether>, weights, x, out);
  }
}

void LaunchProduct(CudaStream stream, const TileMatrix& weights, const ProductInput& x,
                   const ProductOutput& out) {
  switch (weights.dtype) {
    case DType::kF32:
      return LaunchProductOf<DType::kF32>(stream, weights, x, out);
    case DType::kF16:
      return LaunchProductOf<DType::kF16>(stream, weights, x, out);
    case DType::kBF16:
      return LaunchProductOf<DType::kBF16>(stream, weights, x, out);
    case DType::kQ4_0:
      return LaunchProductOf<DType::kQ4_0>(stream, weights, x, out);
    case DType::kQ4_1:
      return LaunchProductOf<DType::kQ4_1>(stream, weights, x, out);
    case DType::kQ5_0:
      return LaunchProductOf<DType::kQ5_0>(stream, weights, x, out);
    case DType::kQ5_1:
      return LaunchProductOf<DType::kQ5_1>(stream, weights, x, out);
    case DType::kQ8_0:
      return LaunchProductOf<DType::kQ8_0>(stream, weights, x, out);
    case DType::kQ2_K:
      return LaunchProductOf<DType::kQ2_K>(stream, weights, x, out);
    case DType::kQ3_K:
      return LaunchProductOf<DType::kQ3_K>(stream, weights, x, out);
    case DType::kQ4_K:
      return LaunchProductOf<DType::kQ4_K>(stream, weights, x, out);
    case DType::kQ5_K:
      return LaunchProductOf<DType::kQ5_K>(stream, weights, x, out);
    case DType::kQ6_K:
      return LaunchProductOf<DType::kQ6_K>(stream, weights, x, out);
  }
}

}  // namespace

void LaunchLinear(CudaStream stream, const TileMatrix& weights, const ProductInput& x, float* out) {
  LaunchProduct(stream, weights, x, {.out = out, .partial_columns = weights.columns});
}

void LaunchLinearPartialSums(CudaStream stream, const TileMatrix& weights, const ProductInput& x,
                             int64_t partial_columns, int64_t* sums, int64_t* failed) {
  const size_t bytes = static_cast<size_t>(x.tokens) * sizeof(int64_t);
  if (bytes > 0) CheckCuda(cudaMemsetAsync(failed, 0, bytes, stream), "cudaMemsetAsync");
  LaunchProduct(stream, weights, x,
                {.sums = sums, .failed = failed, .partial_columns = partial_columns});
}

}  // namespace tandem::core
