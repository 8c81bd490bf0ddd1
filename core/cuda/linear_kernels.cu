#include <cuda_fp16.h>

#include "core/cpu/linear/linear_kernel.h"
#include "core/cuda/gpu_tile.h"
#include "core/cuda/launch.h"
#include "core/cuda/linear_kernels.h"

namespace tandem::core {
namespace {

constexpr unsigned kThreads = 128;  // rows of a block: eight tiles
constexpr int kBlocksTogether = 3;  // on a processor: leaves enough registers to spill none
constexpr int kTokensTogether = 8;  // that a thread multiplies with what it reads
constexpr int64_t kLaneBytes = 4;   // of a vector of 16 lanes of a tile
constexpr int64_t kVectorBytes = 64;

struct ProductOutput {
  float* out = nullptr;     // [tokens, rows]; null: partial sums are wanted
  int64_t* sums = nullptr;  // [tokens, rows]
  int64_t* failed = nullptr;
  int64_t partial_columns = 0;
};

template <typename T>
__device__ T LoadAs(const std::byte* at) {
  return *reinterpret_cast<const T*>(at);
}

__device__ float LoadHalf(const std::byte* at) {
  return __half2float(__ushort_as_half(LoadAs<uint16_t>(at)));
}

/// Four codes of one row: columns 16 half + 4 group + (0..3), as signed bytes. at: the row's lane
/// of the block's first vector.
template <int kBits>
__device__ int32_t LoadCodes(const std::byte* at, int half, int group) {
  const auto load = [at](int64_t vector) { return LoadAs<uint32_t>(at + kVectorBytes * vector); };
  if constexpr (kBits == 8) return static_cast<int32_t>(load(4 * half + group) ^ 0x80808080);
  constexpr bool kNibbles = kBits >= 4;
  constexpr bool kPairs = kBits == 2 || kBits == 3 || kBits == 6;
  constexpr bool kSingles = kBits == 3 || kBits == 5;
  constexpr int kPairsAt = kNibbles ? 4 : 0;
  constexpr int kSinglesAt = kPairsAt + (kPairs ? 2 : 0);
  uint32_t codes = 0;
  if constexpr (kNibbles) codes = load(group) >> (4 * half) & 0x0f0f0f0f;
  if constexpr (kPairs) {
    codes |= (load(kPairsAt + half) >> (2 * group) & 0x03030303) << (kNibbles ? 4 : 0);
  }
  if constexpr (kSingles) {
    codes |= (load(kSinglesAt) >> (4 * half + group) & 0x01010101) << (kBits - 1);
  }
  return static_cast<int32_t>(codes);
}

struct ScaleOffset {
  float scale;
  float offset;
};

/// Of one row and a half of a block, or all of it. scales: what the block has after its codes.
template <DType kDtype>
__device__ ScaleOffset LoadScale(const std::byte* scales, const std::byte* header, int lane,
                                 int half) {
  constexpr TileFormat kFormat = TileOf<kDtype>::kFormat;
  constexpr int64_t kNext = TileFormat::kHalfVectorBytes;
  if constexpr (!kFormat.super_blocks) {
    return {LoadHalf(scales + 2 * lane),
            kFormat.has_offset ? LoadHalf(scales + kNext + 2 * lane) : 0.0F};
  } else {
    const std::byte* factors = scales + half * TileOf<kDtype>::kFactorBytes + lane;
    const int scale_factor =
        kFormat.nibble_factors ? LoadAs<uint8_t>(factors) & 15 : LoadAs<int8_t>(factors);
    ScaleOffset of_row = {LoadHalf(header + 2 * lane) * static_cast<float>(scale_factor), 0.0F};
    if constexpr (kFormat.has_offset) {
      const int offset_factor = kFormat.nibble_factors ? LoadAs<uint8_t>(factors) >> 4
                                                       : LoadAs<int8_t>(factors + kTileRows);
      of_row.offset = LoadHalf(header + kNext + 2 * lane) * static_cast<float>(offset_factor);
    }
    return of_row;
  }
}

/// The blocks of a tile, one after the other.
template <DType kDtype>
struct TileWalk {
  using Tile = TileOf<kDtype>;
  const std::byte* block;
  const std::byte* header;
  int64_t blocks_to_header;

  __device__ TileWalk(const std::byte* tile, int64_t first_block)
      : block(tile + Tile::kHeaderBytes),
        header(tile),
        blocks_to_header(kSuperBlocks - first_block) {}

  __device__ void Next() {
    block += Tile::kBlockBytes;
    if constexpr (Tile::kFormat.super_blocks) {
      if (--blocks_to_header == 0) {
        header = block;
        block += Tile::kHeaderBytes;
        blocks_to_header = kSuperBlocks;
      }
    }
  }
};

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
