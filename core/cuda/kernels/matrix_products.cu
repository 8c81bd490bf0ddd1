#include "core/cuda/kernels/device_code.h"
#include "core/cuda/kernels/gpu_tile.h"
#include "core/cuda/kernels/launch.h"
#include "core/cuda/kernels/linear_products.h"

namespace tandem::core {
namespace {

constexpr unsigned kTilesTogether = 4;  // of a block, one a warp
constexpr int kBlocksTogether = 2;      // on a processor: leaves enough registers to spill none
constexpr int kGroupTokens = 8;         // columns of a tensor core's product
constexpr int kGroups = 4;              // of tokens that a warp multiplies with what it reads
constexpr int kSumsOfThread = 4;        // of a group: two rows times two tokens

/// What a thread multiplies: rows `row` and row + 8 of its warp's tile; in each group of tokens it
/// reads the codes of one, and holds the sums of two. MultiplyBytes32 has the places.
struct Lane {
  int row;
  int four;

  __device__ Lane()
      : row(static_cast<int>(threadIdx.x % kWarpThreads) / 4),
        four(static_cast<int>(threadIdx.x) % 4) {}
};

/// The tokens of a warp.
struct Tokens {
  int64_t first;
  int64_t end;  // of all

  /// Whether a group has any; the same for the whole warp.
  __device__ bool Any(int group) const { return first + group * kGroupTokens < end; }
  /// Of a group; a token that is not there is the last one, whose sums nobody wants.
  __device__ int64_t At(int group, int in_group) const {
    const int64_t token = first + group * kGroupTokens + in_group;
    return token < end ? token : end - 1;
  }
};

template <DType kDtype>
__device__ uint32_t CodesOf(const std::byte* block, int row, int half, int group) {
  return static_cast<uint32_t>(
      LoadCodes<TileOf<kDtype>::kFormat.code_bits>(block + kLaneBytes * row, half, group));
}

/// products[group] = codes of the tile times those of the tokens, over a block of columns, or the
/// half `step` of it.
template <DType kDtype>
__device__ void MultiplyCodes(const std::byte* block, const Lane& lane, const CodeRows& x,
                              const Tokens& tokens, int64_t b, int step,
                              int32_t (&products)[kGroups][kSumsOfThread]) {
  constexpr bool kHalves = TileOf<kDtype>::kFormat.scales_per_block == 2;
  const int half = kHalves ? step : 0;
  const uint32_t first[2] = {CodesOf<kDtype>(block, lane.row, half, lane.four),
                             CodesOf<kDtype>(block, lane.row + 8, half, lane.four)};
  uint32_t second[2] = {};
  if constexpr (!kHalves) {
    second[0] = CodesOf<kDtype>(block, lane.row, 1, lane.four);
    second[1] = CodesOf<kDtype>(block, lane.row + 8, 1, lane.four);
  }
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    if (!tokens.Any(group)) continue;
    const int64_t token = tokens.At(group, lane.row);
    const auto* fours =
        reinterpret_cast<const uint32_t*>(x.codes + (token * x.blocks + b) * kBlockColumns);
#pragma unroll
    for (int i = 0; i < kSumsOfThread; ++i) products[group][i] = 0;
    if constexpr (kHalves) {
      MultiplyBytes16(first, fours[4 * half + lane.four], products[group]);
    } else {
      const uint32_t a[4] = {first[0], first[1], second[0], second[1]};
      const uint32_t of_tokens[2] = {fours[lane.four], fours[4 + lane.four]};
      MultiplyBytes32(a, of_tokens, products[group]);
    }
  }
}

/// sums += the products of block b (rule 2).
template <DType kDtype>
__device__ void MultiplyBlock(const TileWalk<kDtype>& walk, const Lane& lane, const CodeRows& x,
                              const Tokens& tokens, int64_t b,
                              float (&sums)[kGroups * kSumsOfThread]) {
  constexpr TileFormat kFormat = TileOf<kDtype>::kFormat;
  constexpr int kSteps = kFormat.scales_per_block;
  // Codes of 8 bits are made signed as they are read.
  constexpr int kZeroPoint = kFormat.code_bits == 8 ? 0 : kFormat.zero_point;
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    int32_t products[kGroups][kSumsOfThread];
    MultiplyCodes<kDtype>(walk.block, lane, x, tokens, b, step, products);
    const std::byte* scales = walk.block + TileOf<kDtype>::kCodeBytes;
    const ScaleOffset rows[2] = {LoadScale<kDtype>(scales, walk.header, lane.row, step),
                                 LoadScale<kDtype>(scales, walk.header, lane.row + 8, step)};
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      if (!tokens.Any(group)) continue;
#pragma unroll
      for (int i = 0; i < kSumsOfThread; ++i) {
        const int64_t at = tokens.At(group, 2 * lane.four + i % 2) * x.blocks + b;
        const float scale = x.scales[at];
        const int32_t sum =
            kSteps == 2 ? x.sums[2 * at + step] : x.sums[2 * at] + x.sums[2 * at + 1];
        float& total = sums[group * kSumsOfThread + i];
        total = fmaf(rows[i / 2].scale * scale,
                     static_cast<float>(products[group][i] - kZeroPoint * sum), total);
        if constexpr (kFormat.has_offset) {
          total = fmaf(rows[i / 2].offset * scale, static_cast<float>(sum), total);
        }
      }
    }
  }
}

/// A warp multiplies a tile with kGroups groups of tokens.
template <DType kDtype>
__global__ void __launch_bounds__(kTilesTogether* kWarpThreads, kBlocksTogether)
    MatrixProductKernel(TileMatrix weights, ProductInput x, ProductOutput out) {
  const int64_t tile = int64_t{blockIdx.x} * kTilesTogether + threadIdx.x / kWarpThreads;
  if (tile * kTileRows >= weights.rows) return;  // the whole warp
  const Lane lane;
  const Tokens tokens = {int64_t{blockIdx.y} * kGroups * kGroupTokens, x.tokens};
  // Calls take(sum, row, token) for what of this thread's is wanted.
  const auto for_wanted = [&](const auto& take) {
#pragma unroll
    for (int sum = 0; sum < kGroups * kSumsOfThread; ++sum) {
      const int i = sum % kSumsOfThread;
      const int64_t row = tile * kTileRows + lane.row + i / 2 * 8;
      const int64_t token =
          tokens.first + sum / kSumsOfThread * kGroupTokens + 2 * lane.four + i % 2;
      if (row < weights.rows && token < tokens.end) take(sum, row, token);
    }
  };
  TileWalk<kDtype> walk(weights.tiles + tile * weights.tile_bytes, weights.first_block);
  PartialSumTotals<kGroups * kSumsOfThread> totals;
  int64_t column = 0;
  do {
    float sums[kGroups * kSumsOfThread] = {};
    const int64_t rest = weights.columns - column;
    const int64_t end = column + (rest < out.partial_columns ? rest : out.partial_columns);
    for (; column < end; column += kBlockColumns, walk.Next()) {
      MultiplyBlock<kDtype>(walk, lane, x.codes, tokens, column / kBlockColumns, sums);
    }
    if (out.out == nullptr) {
      totals.Add(sums);
    } else {
      for_wanted([&](int sum, int64_t row, int64_t token) {
        out.out[token * weights.rows + row] = sums[sum];
      });
    }
  } while (column < weights.columns);
  if (out.out != nullptr) return;
  for_wanted([&](int sum, int64_t row, int64_t token) {
    out.sums[token * weights.rows + row] = totals.sums[sum];
    if ((totals.failed >> sum & 1) == 0) return;
    atomicAdd(reinterpret_cast<unsigned long long*>(out.failed + token), 1ULL);
  });
}

template <DType kDtype>
void LaunchOf(CudaStream stream, const TileMatrix& weights, const ProductInput& x,
              const ProductOutput& out) {
  const dim3 grid(Blocks(weights.rows, kTilesTogether * kTileRows),
                  Blocks(x.tokens, kGroups * kGroupTokens));
  Launch(stream, grid, kTilesTogether * kWarpThreads, 0, MatrixProductKernel<kDtype>, weights, x,
         out);
}

}  // namespace

void LaunchMatrixProduct(CudaStream stream, const TileMatrix& weights, const ProductInput& x,
                         const ProductOutput& out) {
  switch (weights.dtype) {
    case DType::kQ4_0:
      return LaunchOf<DType::kQ4_0>(stream, weights, x, out);
    case DType::kQ4_1:
      return LaunchOf<DType::kQ4_1>(stream, weights, x, out);
    case DType::kQ5_0:
      return LaunchOf<DType::kQ5_0>(stream, weights, x, out);
    case DType::kQ5_1:
      return LaunchOf<DType::kQ5_1>(stream, weights, x, out);
    case DType::kQ8_0:
      return LaunchOf<DType::kQ8_0>(stream, weights, x, out);
    case DType::kQ2_K:
      return LaunchOf<DType::kQ2_K>(stream, weights, x, out);
    case DType::kQ3_K:
      return LaunchOf<DType::kQ3_K>(stream, weights, x, out);
    case DType::kQ4_K:
      return LaunchOf<DType::kQ4_K>(stream, weights, x, out);
    case DType::kQ5_K:
      return LaunchOf<DType::kQ5_K>(stream, weights, x, out);
    case DType::kQ6_K:
      return LaunchOf<DType::kQ6_K>(stream, weights, x, out);
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
      return;  // have no codes
  }
}

}  // namespace tandem::core
