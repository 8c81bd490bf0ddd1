#include "core/cuda/kernels/device_code.h"
#include "core/cuda/kernels/gpu_tile.h"
#include "core/cuda/kernels/launch.h"
#include "core/cuda/kernels/linear_products.h"

namespace tandem::core {
namespace {

constexpr int kThreads = 128;
constexpr int kResident = 6;  // blocks on a multiprocessor: leaves enough registers to spill none
constexpr int kManyTokens = kThreads / kTileRows;  // that a block of threads multiplies at once

/// How a block of threads multiplies a tile of floats with kTokens tokens. A row and token is one
/// chain of fma's, a column each, of one thread; all threads bring what the chains read into shared
/// memory, the next columns while these are added.
template <DType kDtype, int kTokens>
struct FloatShape {
  static constexpr int kElementBytes = TileOf<kDtype>::kFormat.element_bytes;
  static constexpr int kColumnBytes = kTileRows * kElementBytes;
  static constexpr int kColumns = kTokens == 1 ? 512 / kElementBytes : 64;  // of a stage
  static constexpr int kWeightBytes = kColumns * kColumnBytes;
  static constexpr int kLoads = kWeightBytes / static_cast<int>(sizeof(uint4)) / kThreads;
  static constexpr int kStageBytes = kWeightBytes + kColumns * kTokens * 4;
  static constexpr size_t kSharedBytes = 2 * kStageBytes;
};

/// Element `row` of a column, of words in shared memory.
template <DType kDtype>
__device__ float ElementOf(const SharedArray<uint32_t>& words, int column_word, int row) {
  if constexpr (kDtype == DType::kF32) {
    return __uint_as_float(words[column_word + row]);
  } else {
    const uint32_t pair = words[column_word + row / 2];
    const auto half = static_cast<uint16_t>(row % 2 == 0 ? pair & 0xffff : pair >> 16);
    if constexpr (kDtype == DType::kBF16) return __uint_as_float(uint32_t{half} << 16);
    return __half2float(__ushort_as_half(half));
  }
}

/// gridDim.x tiles, gridDim.y groups of kTokens tokens.
template <DType kDtype, int kTokens>
__global__ void __launch_bounds__(kThreads, kResident)
    FloatProductKernel(TileMatrix weights, ProductInput x, ProductOutput out) {
  using Shape = FloatShape<kDtype, kTokens>;
  LetNextKernelStart();
  const int thread = static_cast<int>(threadIdx.x);
  const int row = thread % kTileRows;
  const int token = thread / kTileRows;
  const int64_t first_token = int64_t{blockIdx.y} * kTokens;
  const int64_t tokens_left = x.tokens - first_token;
  const int tokens = tokens_left < kTokens ? static_cast<int>(tokens_left) : kTokens;
  const bool adds = token < tokens;
  const std::byte* const tile = weights.tiles + blockIdx.x * weights.tile_bytes;
  const float* const values = x.x + first_token * weights.columns;
  const int64_t out_row = int64_t{blockIdx.x} * kTileRows + row;

  uint4 next[Shape::kLoads] = {};
  const auto load = [&](int64_t stage) {
#pragma unroll
    for (int i = 0; i < Shape::kLoads; ++i) {
      const int64_t byte =
          stage * Shape::kColumnBytes + (i * kThreads + thread) * int64_t{sizeof(uint4)};
      if (byte < weights.columns * Shape::kColumnBytes) next[i] = LoadAs<uint4>(tile + byte);
    }
  };
  load(0);
  WaitForKernelBefore();
  PartialSumTotals<1> totals;
  float sum = 0.0F;
  int64_t left = out.partial_columns;
  int stage_at = 0;
  for (int64_t stage = 0; stage < weights.columns; stage += Shape::kColumns) {
    const int64_t rest = weights.columns - stage;
    const int columns = rest < Shape::kColumns ? static_cast<int>(rest) : Shape::kColumns;
    const SharedArray<uint4> arrived(stage_at);
#pragma unroll
    for (int i = 0; i < Shape::kLoads; ++i) {
      const int at = i * kThreads + thread;
      if (at * static_cast<int>(sizeof(uint4)) < columns * Shape::kColumnBytes) {
        arrived[at] = next[i];
      }
    }
    load(stage + Shape::kColumns);
    const SharedArray<float> stage_values(stage_at + Shape::kWeightBytes);
    for (int i = thread; i < tokens * Shape::kColumns; i += kThreads) {
      const int column = i % Shape::kColumns;
      if (column >= columns) continue;
      stage_values[i] = values[i / Shape::kColumns * weights.columns + stage + column];
    }
    __syncthreads();
    if (adds) {
      const SharedArray<uint32_t> words(stage_at);
#pragma unroll 8
      for (int column = 0; column < columns; ++column) {
        const float w = ElementOf<kDtype>(words, column * Shape::kColumnBytes / 4, row);
        sum = fmaf(w, stage_values[token * Shape::kColumns + column], sum);
        if (--left > 0) continue;
        if (out.out != nullptr) break;
        totals.Add(0, sum);
        sum = 0.0F;
        left = out.partial_columns;
      }
    }
    stage_at = Shape::kStageBytes - stage_at;
  }
  if (!adds || out_row >= weights.rows) return;
  if (out.out != nullptr) {
    out.out[(first_token + token) * weights.rows + out_row] = sum;
  } else {
    totals.Add(0, sum);
    out.Add(totals, 0, out_row, first_token + token, weights.rows);
  }
}

template <DType kDtype, int kTokens>
void LaunchOf(CudaStream stream, const TileMatrix& weights, const ProductInput& x,
              const ProductOutput& out) {
  Launch(stream, {Blocks(weights.rows, kTileRows), Blocks(x.tokens, kTokens)}, kThreads,
         FloatShape<kDtype, kTokens>::kSharedBytes, FloatProductKernel<kDtype, kTokens>, weights, x,
         out);
}

template <DType kDtype>
void LaunchOf(CudaStream stream, const TileMatrix& weights, const ProductInput& x,
              const ProductOutput& out) {
  if (x.tokens == 1) return LaunchOf<kDtype, 1>(stream, weights, x, out);
  LaunchOf<kDtype, kManyTokens>(stream, weights, x, out);
}

}  // namespace

void LaunchFloatProduct(CudaStream stream, const TileMatrix& weights, const ProductInput& x,
                        const ProductOutput& out) {
  ForFloats(weights.dtype,
            [&](auto dtype) { LaunchOf<decltype(dtype)::value>(stream, weights, x, out); });
}

}  // namespace tandem::core
