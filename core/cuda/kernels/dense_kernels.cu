#include "core/cuda/kernels/dense_kernels.h"
#include "core/cuda/kernels/device_code.h"
#include "core/cuda/kernels/gpu_fragments.h"
#include "core/cuda/kernels/gpu_tile.h"
#include "core/cuda/kernels/launch.h"
#include "core/cuda/kernels/linear_products.h"

namespace tandem::core {
namespace {

constexpr unsigned kThreads = 128;
constexpr unsigned kAllLanes = 0xffffffff;

__device__ uint16_t Bfloat16Bits(float x) {
  const uint32_t bits = __float_as_uint(x);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;  // NaN
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/// Element i of some that were loaded together.
template <DType kDtype>
__device__ float ElementOf(const uint4& loaded, int i) {
  const uint32_t words[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
  if constexpr (kDtype == DType::kF32) {
    return __uint_as_float(words[i]);
  } else {
    const uint32_t half = words[i / 2] >> (16 * (i % 2)) & 0xffff;
    if constexpr (kDtype == DType::kBF16) return __uint_as_float(half << 16);
    return __half2float(__ushort_as_half(static_cast<uint16_t>(half)));
  }
}

/// How a block of threads multiplies a tile of floats: a thread loads 16 bytes, which are some rows
/// of one column.
template <DType kDtype>
struct FastShape {
  static constexpr int kElementBytes = TileOf<kDtype>::kFormat.element_bytes;
  static constexpr int kRows = 16 / kElementBytes;  // of a thread
  static constexpr int kLanes = kTileRows / kRows;  // threads of a column
  static constexpr int kThreadCount = 256;
  static constexpr int kColumns = kThreadCount / kLanes;  // of a turn
  static constexpr int kWarps = kThreadCount / static_cast<int>(kWarpThreads);
};

template <DType kDtype, int kTokens>
__global__ void __launch_bounds__(FastShape<kDtype>::kThreadCount, 2)
    FastFloatKernel(TileMatrix weights, ProductInput x, float* out) {
  using Shape = FastShape<kDtype>;
  constexpr int kAhead = 4;  // turns that are loaded together
  LetNextKernelStart();
  const int thread = static_cast<int>(threadIdx.x);
  const std::byte* const tile = weights.tiles + blockIdx.x * weights.tile_bytes;
  const auto tokens = static_cast<int>(x.tokens);
  float sums[Shape::kRows][kTokens] = {};
  uint4 loaded[kAhead] = {};
  const auto load = [&](int64_t turn) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t column = turn + i * Shape::kColumns + thread / Shape::kLanes;
      if (column >= weights.columns) continue;
      loaded[i] = LoadAs<uint4>(tile + (column * Shape::kLanes + thread % Shape::kLanes) * 16);
    }
  };
  load(0);
  WaitForKernelBefore();
  for (int64_t turn = 0; turn < weights.columns; turn += kAhead * Shape::kColumns) {
    uint4 now[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) now[i] = loaded[i];
    load(turn + kAhead * Shape::kColumns);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t column = turn + i * Shape::kColumns + thread / Shape::kLanes;
      if (column >= weights.columns) continue;
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        if (t >= tokens) continue;
        const float value = x.x[t * weights.columns + column];
#pragma unroll
        for (int row = 0; row < Shape::kRows; ++row) {
          sums[row][t] = fmaf(ElementOf<kDtype>(now[i], row), value, sums[row][t]);
        }
      }
    }
  }
  // Threads of a warp with the same rows, then the warps.
  const SharedArray<float> of_warps(0);  // [kWarps, kTokens, kTileRows]
  const int warp = thread / static_cast<int>(kWarpThreads);
  const int lane = thread % static_cast<int>(kWarpThreads);
#pragma unroll
  for (int row = 0; row < Shape::kRows; ++row) {
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      float sum = sums[row][t];
#pragma unroll
      for (int other = kWarpThreads / 2; other >= Shape::kLanes; other /= 2) {
        sum += __shfl_xor_sync(kAllLanes, sum, other);
      }
      if (lane < Shape::kLanes) {
        of_warps[(warp * kTokens + t) * kTileRows + lane * Shape::kRows + row] = sum;
      }
    }
  }
  __syncthreads();
  const int64_t row = int64_t{blockIdx.x} * kTileRows + thread % kTileRows;
  const int token = thread / kTileRows;
  if (token >= tokens || row >= weights.rows) return;
  float sum = 0.0F;
  for (int i = 0; i < Shape::kWarps; ++i) {
    sum += of_warps[(i * kTokens + token) * kTileRows + thread % kTileRows];
  }
  out[token * weights.rows + row] = sum;
}

template <DType kDtype>
void LaunchFastFloatOf(CudaStream stream, const TileMatrix& weights, const ProductInput& x,
                       float* out) {
  using Shape = FastShape<kDtype>;
  const auto launch = [&](auto kernel, int tokens) {
    Launch(stream, Blocks(weights.rows, kTileRows), Shape::kThreadCount,
           sizeof(float) * static_cast<size_t>(Shape::kWarps * tokens * kTileRows), kernel, weights,
           x, out);
  };
  if (x.tokens == 1) {
    launch(FastFloatKernel<kDtype, 1>, 1);
  } else {
    constexpr int kTokens = kMostFastRowTokens;
    launch(FastFloatKernel<kDtype, kTokens>, kTokens);
  }
}

__global__ void ToPartialSumsKernel(const float* x, int64_t columns, int64_t* sums,
                                    int64_t* failed) {
  BeginKernel();
  const int64_t column = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  if (column >= columns) return;
  const int64_t at = blockIdx.x * columns + column;
  PartialSumTotals<1> total;
  total.Add(0, x[at]);
  sums[at] = total.sums[0];
  if (total.failed != 0) {
    atomicAdd(reinterpret_cast<unsigned long long*>(failed + blockIdx.x), 1ULL);
  }
}

__global__ void ToBfloat16Kernel(const float* x, int64_t n, uint16_t* out) {
  BeginKernel();
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < n) out[i] = Bfloat16Bits(x[i]);
}

/// A thread expands one row of one block of 32 columns of floats. gridDim.y tiles.
template <DType kDtype>
__global__ void ExpandFloatsKernel(TileMatrix weights, int64_t first_row, int64_t rows,
                                   uint16_t* out) {
  BeginKernel();
  constexpr TileFormat kFormat = TileOf<kDtype>::kFormat;
  constexpr int64_t kColumnBytes = int64_t{kTileRows} * kFormat.element_bytes;
  const int lane = static_cast<int>(threadIdx.x) % kTileRows;
  const int64_t b = int64_t{blockIdx.x} * (kThreads / kTileRows) + threadIdx.x / kTileRows;
  const int64_t row = int64_t{blockIdx.y} * kTileRows + lane;
  if (row >= rows || b * kBlockColumns >= weights.columns) return;
  const std::byte* const tile =
      weights.tiles + (first_row / kTileRows + blockIdx.y) * weights.tile_bytes;
  uint16_t* const to = out + row * weights.columns + b * kBlockColumns;
  const int64_t left = weights.columns - b * kBlockColumns;
  for (int64_t i = 0; i < kBlockColumns && i < left; ++i) {
    const std::byte* at =
        tile + (b * kBlockColumns + i) * kColumnBytes + lane * kFormat.element_bytes;
    uint4 loaded = {};
    loaded.x = kFormat.element_bytes == 4 ? LoadAs<uint32_t>(at) : LoadAs<uint16_t>(at);
    to[i] = Bfloat16Bits(ElementOf<kDtype>(loaded, 0));
  }
}

/// A warp expands a unit of quantized weights. gridDim.y tiles.
template <DType kDtype>
__global__ void ExpandUnitsKernel(TileMatrix weights, int64_t first_row, int64_t rows,
                                  uint16_t* out) {
  BeginKernel();
  using Of = FragmentsOf<kDtype>;
  constexpr int kWarps = static_cast<int>(kThreads) / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const UnitPlace place(weights.first_block);
  const auto blocks = static_cast<int>(weights.columns / kBlockColumns);
  const int unit_index =
      static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / kLanes;
  if (unit_index > place.UnitOf(blocks - 1)) return;
  const GlobalUnits units{weights.tiles + (first_row / kTileRows + blockIdx.y) * weights.tile_bytes,
                          WeightReader(true)};
  LaneUnit<kDtype> unit;
  unit.Load(units, place.UnitAt<kDtype>(unit_index),
            place.SuperAt<kDtype>(place.SuperOf(unit_index)), lane);
#pragma unroll
  for (int in_unit = 0; in_unit < kUnitBlocks; ++in_unit) {
    const int b = place.FirstBlockOf(unit_index) + in_unit;
    if (b < 0 || b >= blocks) continue;
    uint32_t codes[4];
    unit.Codes(in_unit, codes);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t row = int64_t{blockIdx.y} * kTileRows + lane / 4 + i % 2 * 8;
      if (row >= rows) continue;
      const ScaleOffset of_row = unit.ScaleOf(in_unit, i % 2, Of::kSteps == 2 ? i / 2 : 0);
      uint16_t* const to =
          out + row * weights.columns + b * kBlockColumns + i / 2 * 16 + lane % 4 * 4;
      uint32_t words[2] = {};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int code = static_cast<int8_t>(codes[i] >> (8 * k)) / (1 << Of::kShift);
        words[k / 2] |=
            uint32_t{Bfloat16Bits(fmaf(of_row.scale, static_cast<float>(code), of_row.offset))}
            << (k % 2 * 16);
      }
      *reinterpret_cast<uint2*>(to) = {words[0], words[1]};
    }
  }
}

template <DType kDtype>
void LaunchExpandOf(CudaStream stream, const TileMatrix& weights, int64_t first_row, int64_t rows,
                    uint16_t* out) {
  if (weights.columns == 0) return;
  const unsigned tiles = Blocks(rows, kTileRows);
  if constexpr (TileFormatOf(kDtype).quantized()) {
    const int64_t units =
        FragmentFormat::units(weights.first_block, weights.columns / kBlockColumns);
    Launch(stream, {Blocks(units, kThreads / kLanes), tiles}, kThreads, 0,
           ExpandUnitsKernel<kDtype>, weights, first_row, rows, out);
  } else {
    Launch(stream, {Blocks(weights.columns, kBlockColumns * (kThreads / kTileRows)), tiles},
           kThreads, 0, ExpandFloatsKernel<kDtype>, weights, first_row, rows, out);
  }
}

}  // namespace

void LaunchFastFloatLinear(CudaStream stream, const TileMatrix& weights, const ProductInput& x,
                           float* out) {
  if (x.tokens == 0) return;
  ForFloats(weights.dtype, [&](auto dtype) {
    LaunchFastFloatOf<decltype(dtype)::value>(stream, weights, x, out);
  });
}

void LaunchToPartialSums(CudaStream stream, const float* x, int64_t tokens, int64_t columns,
                         int64_t* sums, int64_t* failed) {
  if (tokens == 0) return;
  CheckCuda(cudaMemsetAsync(failed, 0, static_cast<size_t>(tokens) * sizeof(int64_t), stream),
            "cudaMemsetAsync");
  Launch(stream, {Blocks(tokens, 1), Blocks(columns, kThreads)}, kThreads, 0, ToPartialSumsKernel,
         x, columns, sums, failed);
}

void LaunchToBfloat16(CudaStream stream, const float* x, int64_t n, uint16_t* out) {
  Launch(stream, Blocks(n, kThreads), kThreads, 0, ToBfloat16Kernel, x, n, out);
}

void LaunchExpandToBfloat16(CudaStream stream, const TileMatrix& weights, int64_t first_row,
                            int64_t rows, uint16_t* out) {
  const auto launch = [&](auto dtype) {
    LaunchExpandOf<decltype(dtype)::value>(stream, weights, first_row, rows, out);
  };
  ForQuantized(weights.dtype, launch);
  ForFloats(weights.dtype, launch);
}

}  // namespace tandem::core
