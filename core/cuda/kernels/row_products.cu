#include <type_traits>

#include "core/cuda/kernels/device_code.h"
#include "core/cuda/kernels/gpu_lane.h"
#include "core/cuda/kernels/gpu_tile.h"
#include "core/cuda/kernels/launch.h"
#include "core/cuda/kernels/linear_products.h"

namespace tandem::core {
namespace {

/// How a block of threads multiplies a tile with kTokens tokens.
///
/// A row's fma chain is one thread's, and would leave the rest of the GPU idle. So the products of
/// a row's blocks, which are integers, are made by many threads: a strip of 16 threads takes a
/// block of the 16 rows and leaves both factors of each link of the chain in shared memory. The
/// first 16 threads for each token add the links in ascending order, while the others are at the
/// next stage.
template <DType kDtype, int kTokens>
struct RowShape {
  static constexpr TileFormat kFormat = TileOf<kDtype>::kFormat;
  static constexpr int kSteps = kFormat.scales_per_block;
  // Codes of 8 bits are made signed as they are read.
  static constexpr int kZeroPoint = kFormat.code_bits == 8 ? 0 : kFormat.zero_point;
  static constexpr int kStrips = kTokens == 1 ? 16 : 8;
  static constexpr int kThreads = kStrips * kTileRows;
  static constexpr bool kSmallBlock = kFormat.code_bits == 4 && !kFormat.super_blocks;
  static constexpr int kTogether = kTokens > 1 ? 1 : kSmallBlock ? 4 : 2;  // blocks of a strip
  static constexpr int kStageBlocks = kStrips * kTogether;
  // Blocks of threads on a multiprocessor: leaves enough registers to spill none.
  static constexpr int kResident = kTokens == 1 ? 3 : 4;
  static constexpr int kGatedResident = kResident - 1;
  // Links of a stage, one plane for each factor: [blocks, steps, tokens, rows].
  static constexpr int kPlane = kStageBlocks * kSteps * kTokens * kTileRows;
  static constexpr int kPlanes = kFormat.has_offset ? 3 : 2;
  static constexpr int kStage = kPlanes * kPlane;
  static constexpr size_t kSharedBytes = 2 * kStage * sizeof(float);  // two stages

  static __device__ int LinkAt(int block, int step, int token, int row) {
    return ((block * kSteps + step) * kTokens + token) * kTileRows + row;
  }
};

struct BlockRange {
  int64_t begin;
  int64_t end;
};

/// Leaves the links of block b of a row, the `in_stage`th of its stage.
template <DType kDtype, int kTokens>
__device__ void MakeLinks(const LaneBlock<kDtype>& block, const CodeRows& x, int tokens, int64_t b,
                          int in_stage, int row, const SharedArray<float>& links, int stage_at) {
  using Shape = RowShape<kDtype, kTokens>;
  int32_t codes[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    codes[i] = static_cast<int32_t>(CodesFrom<Shape::kFormat.code_bits>(block, i / 4, i % 4));
  }
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    if (t >= tokens) continue;
    const int64_t at = t * x.blocks + b;
    const auto* of_token = reinterpret_cast<const uint4*>(x.codes + at * kBlockColumns);
    const uint4 first = of_token[0];
    const uint4 second = of_token[1];
    int32_t products[2];
    products[0] = __dp4a(codes[0], static_cast<int>(first.x), 0);
    products[0] = __dp4a(codes[1], static_cast<int>(first.y), products[0]);
    products[0] = __dp4a(codes[2], static_cast<int>(first.z), products[0]);
    products[0] = __dp4a(codes[3], static_cast<int>(first.w), products[0]);
    products[1] = __dp4a(codes[4], static_cast<int>(second.x), 0);
    products[1] = __dp4a(codes[5], static_cast<int>(second.y), products[1]);
    products[1] = __dp4a(codes[6], static_cast<int>(second.z), products[1]);
    products[1] = __dp4a(codes[7], static_cast<int>(second.w), products[1]);
    if constexpr (Shape::kSteps == 1) products[0] += products[1];
    const float scale = x.scales[at];
#pragma unroll
    for (int step = 0; step < Shape::kSteps; ++step) {
      const ScaleOffset of_row = block.scales.Of(step);
      if constexpr (Shape::kZeroPoint != 0) {
        products[step] -= Shape::kZeroPoint * SumOf<Shape::kSteps>(x, at, step);
      }
      const int link = stage_at + Shape::LinkAt(in_stage, step, t, row);
      links[link] = of_row.scale * scale;
      links[link + Shape::kPlane] = static_cast<float>(products[step]);
      if constexpr (Shape::kFormat.has_offset) {
        links[link + 2 * Shape::kPlane] = of_row.offset * scale;
      }
    }
  }
}

/// Multiplies the blocks [blocks.begin, blocks.end) of a tile with the first `tokens` rows of x.
/// Threads that add a row call take(sum) for each partial sum of `partial_blocks`, ascending, and
/// at the end for the rest. All threads of the block come.
template <DType kDtype, int kTokens, typename Take>
__device__ void MultiplyTile(const TileMatrix& weights, int64_t tile, const CodeRows& x, int tokens,
                             const BlockRange& blocks, int64_t partial_blocks, const Take& take) {
  using Shape = RowShape<kDtype, kTokens>;
  const SharedArray<float> links(0);
  const int row = static_cast<int>(threadIdx.x) % kTileRows;
  const int strip = static_cast<int>(threadIdx.x) / kTileRows;
  const bool adds = strip < tokens;  // then of token `strip`
  const std::byte* const bytes = weights.tiles + tile * weights.tile_bytes;

  LaneBlock<kDtype> next[Shape::kTogether];
  const auto load = [&](int64_t stage) {
#pragma unroll
    for (int i = 0; i < Shape::kTogether; ++i) {
      const int64_t b = stage + i * Shape::kStrips + strip;
      if (b < blocks.end) next[i].Load(bytes, weights.first_block, b, row);
    }
  };
  load(blocks.begin);
  WaitForKernelBefore();
  float sum = 0.0F;
  int64_t left = partial_blocks;
  int stage_at = 0;
  for (int64_t stage = blocks.begin; stage < blocks.end; stage += Shape::kStageBlocks) {
    LaneBlock<kDtype> now[Shape::kTogether];
#pragma unroll
    for (int i = 0; i < Shape::kTogether; ++i) now[i] = next[i];
    load(stage + Shape::kStageBlocks);
#pragma unroll
    for (int i = 0; i < Shape::kTogether; ++i) {
      const int in_stage = i * Shape::kStrips + strip;
      if (stage + in_stage >= blocks.end) continue;
      MakeLinks<kDtype, kTokens>(now[i], x, tokens, stage + in_stage, in_stage, row, links,
                                 stage_at);
    }
    __syncthreads();
    if (adds) {
      const int64_t rest = blocks.end - stage;
      const int count = rest < Shape::kStageBlocks ? static_cast<int>(rest) : Shape::kStageBlocks;
#pragma unroll 4
      for (int i = 0; i < count; ++i) {
#pragma unroll
        for (int step = 0; step < Shape::kSteps; ++step) {
          const int link = stage_at + Shape::LinkAt(i, step, strip, row);
          sum = fmaf(links[link], links[link + Shape::kPlane], sum);
          if constexpr (Shape::kFormat.has_offset) {
            const int32_t of_token = SumOf<Shape::kSteps>(x, strip * x.blocks + stage + i, step);
            sum = fmaf(links[link + 2 * Shape::kPlane], static_cast<float>(of_token), sum);
          }
        }
        if (--left > 0) continue;
        take(sum);
        sum = 0.0F;
        left = partial_blocks;
      }
    }
    // The other stage's links are written next; those who add them meet the barrier behind.
    stage_at = Shape::kStage - stage_at;
  }
  if (adds) take(sum);
}

constexpr int64_t kNoPartialSums = INT64_MAX;

/// Which row of a matrix and which token a thread that adds has.
struct Place {
  int64_t row;
  int64_t token;

  __device__ Place()
      : row(int64_t{blockIdx.x} * kTileRows + threadIdx.x % kTileRows),
        token(threadIdx.x / kTileRows) {}
};

template <DType kDtype, int kTokens>
__global__ void __launch_bounds__(RowShape<kDtype, kTokens>::kThreads,
                                  RowShape<kDtype, kTokens>::kResident)
    RowProductKernel(TileMatrix weights, ProductInput x, float* out) {
  LetNextKernelStart();
  const Place place;
  MultiplyTile<kDtype, kTokens>(weights, blockIdx.x, x.codes, static_cast<int>(x.tokens),
                                {0, x.codes.blocks}, kNoPartialSums, [&](float sum) {
                                  if (place.row < weights.rows)
                                    out[place.token * weights.rows + place.row] = sum;
                                });
}

/// The partial sums are divided over gridDim.y blocks, and their totals, which are integers, are
/// added in any order.
template <DType kDtype, int kTokens>
__global__ void __launch_bounds__(RowShape<kDtype, kTokens>::kThreads,
                                  RowShape<kDtype, kTokens>::kResident)
    RowPartialSumsKernel(TileMatrix weights, ProductInput x, ProductOutput out) {
  LetNextKernelStart();
  const Place place;
  const int64_t partial_blocks = out.partial_columns / kBlockColumns;
  const int64_t partials = (x.codes.blocks + partial_blocks - 1) / partial_blocks;
  const int64_t end = partials * (blockIdx.y + 1) / gridDim.y * partial_blocks;
  const BlockRange blocks = {partials * blockIdx.y / gridDim.y * partial_blocks,
                             end < x.codes.blocks ? end : x.codes.blocks};
  PartialSumTotals<1> totals;
  MultiplyTile<kDtype, kTokens>(weights, blockIdx.x, x.codes, static_cast<int>(x.tokens), blocks,
                                partial_blocks, [&](float sum) { totals.Add(0, sum); });
  if (place.token >= x.tokens || place.row >= weights.rows) return;
  out.Add(totals, 0, place.row, place.token, weights.rows);
}

template <DType kDtype, int kTokens>
__global__ void __launch_bounds__(RowShape<kDtype, kTokens>::kThreads,
                                  RowShape<kDtype, kTokens>::kGatedResident)
    GatedRowProductKernel(GatedMatrices weights, ProductInput x, float* out) {
  LetNextKernelStart();
  const Place place;
  const auto tokens = static_cast<int>(x.tokens);
  const BlockRange blocks = {0, x.codes.blocks};
  float gate_sum = 0.0F;
  MultiplyTile<kDtype, kTokens>(weights.gate, blockIdx.x, x.codes, tokens, blocks, kNoPartialSums,
                                [&](float sum) { gate_sum = sum; });
  __syncthreads();
  MultiplyTile<kDtype, kTokens>(
      weights.up, blockIdx.x, x.codes, tokens, blocks, kNoPartialSums, [&](float sum) {
        if (place.row >= weights.up.rows) return;
        out[place.token * weights.up.rows + place.row] = Activate(weights.kind, gate_sum, sum);
      });
}

// Blocks of threads that a GPU should have at least, where the partial sums can be divided.
constexpr int64_t kWantedBlocks = 512;

template <DType kDtype, int kTokens>
void LaunchRowProductOf(CudaStream stream, const TileMatrix& weights, const ProductInput& x,
                        const ProductOutput& out) {
  using Shape = RowShape<kDtype, kTokens>;
  const unsigned tiles = Blocks(weights.rows, kTileRows);
  if (out.out != nullptr) {
    return Launch(stream, tiles, Shape::kThreads, Shape::kSharedBytes,
                  RowProductKernel<kDtype, kTokens>, weights, x, out.out);
  }
  const int64_t stages = (x.codes.blocks + Shape::kStageBlocks - 1) / Shape::kStageBlocks;
  const int64_t partials = (weights.columns + out.partial_columns - 1) / out.partial_columns;
  int64_t parts = tiles == 0 ? 1 : kWantedBlocks / tiles;
  if (parts > stages) parts = stages;
  if (parts > partials) parts = partials;
  if (parts < 1) parts = 1;
  Launch(stream, {tiles, static_cast<unsigned>(parts)}, Shape::kThreads, Shape::kSharedBytes,
         RowPartialSumsKernel<kDtype, kTokens>, weights, x, out);
}

template <DType kDtype, int kTokens>
void LaunchGatedRowProductOf(CudaStream stream, const GatedMatrices& weights, const ProductInput& x,
                             float* out) {
  using Shape = RowShape<kDtype, kTokens>;
  Launch(stream, Blocks(weights.up.rows, kTileRows), Shape::kThreads, Shape::kSharedBytes,
         GatedRowProductKernel<kDtype, kTokens>, weights, x, out);
}

/// Calls launch(the least template number of tokens that holds `tokens`).
template <typename LaunchTokens>
void ForTokens(int64_t tokens, const LaunchTokens& launch) {
  if (tokens <= 1) return launch(std::integral_constant<int, 1>());
  launch(std::integral_constant<int, kMostRowTokens>());
}

}  // namespace

void LaunchRowProduct(CudaStream stream, const TileMatrix& weights, const ProductInput& x,
                      const ProductOutput& out) {
  ForQuantized(weights.dtype, [&](auto dtype) {
    ForTokens(x.tokens, [&](auto tokens) {
      LaunchRowProductOf<decltype(dtype)::value, decltype(tokens)::value>(stream, weights, x, out);
    });
  });
}

void LaunchGatedRowProduct(CudaStream stream, const GatedMatrices& weights, const ProductInput& x,
                           float* out) {
  ForQuantized(weights.up.dtype, [&](auto dtype) {
    ForTokens(x.tokens, [&](auto tokens) {
      LaunchGatedRowProductOf<decltype(dtype)::value, decltype(tokens)::value>(stream, weights, x,
                                                                               out);
    });
  });
}

}  // namespace tandem::core
