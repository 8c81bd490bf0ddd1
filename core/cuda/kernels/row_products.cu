#include <algorithm>
#include <type_traits>

#include "core/cuda/kernels/device_code.h"
#include "core/cuda/kernels/gpu_fragments.h"
#include "core/cuda/kernels/gpu_lane.h"
#include "core/cuda/kernels/launch.h"
#include "core/cuda/kernels/linear_products.h"
#include "core/cuda/kernels/product_cut.h"

namespace tandem::core {
namespace {

/// How a block of threads multiplies a tile with kTokens tokens.
///
/// A row's fma chain is one thread's, and would leave the rest of the GPU idle. So the products of
/// a row's blocks, which are integers, are made by many threads: a warp takes a unit of the tile,
/// 16 consecutive bytes a thread, on tensor cores, and leaves both factors of each link of the
/// chain in shared memory. The first 16 threads for each token add the links in ascending order,
/// while the others are at the next stage.
template <DType kDtype, int kTokens>
struct RowShape {
  using Of = FragmentsOf<kDtype>;
  static constexpr int kSteps = Of::kSteps;
  static constexpr int kWarps = kTokens == 1 ? 8 : 4;
  static constexpr int kThreads = kWarps * kLanes;
  static constexpr bool kSmallUnit = Of::kBits == 4 && !Of::kTile.super_blocks;
  static constexpr int kTogether = kTokens > 1 ? 1 : kSmallUnit ? 4 : 2;  // units of a warp
  static constexpr int kStageUnits = kWarps * kTogether;
  static constexpr int kStageBlocks = kStageUnits * kUnitBlocks;
  // Blocks of threads on a multiprocessor: leaves enough registers to spill none.
  static constexpr int kResident = kTokens == 1 ? 3 : 4;
  static constexpr int kGatedResident = kResident - 1;
  static constexpr int kPartialResident = kResident - (kTogether > 2 ? 1 : 0);
  // Links of a stage, one plane for each factor: [blocks, steps, tokens, rows].
  static constexpr int kPlane = kStageBlocks * kSteps * kTokens * kTileRows;
  static constexpr int kPlanes = Of::kTile.has_offset ? 3 : 2;
  static constexpr int kStage = kPlanes * kPlane;
  static constexpr size_t kSharedBytes = 2 * kStage * sizeof(float);  // two stages

  static __device__ int LinkAt(int block, int step, int token, int row) {
    // What a warp writes together lies in different banks, and so does what it reads.
    const int place = kTokens == 1 ? row
                                   : (token ^ (token >> 2 & 1)) * kTileRows +
                                         (row ^ (token >> 1 & 1) * (kTileRows / 2));
    return (block * kSteps + step) * kTokens * kTileRows + place;
  }
};

struct BlockRange {
  int begin;
  int end;
};

/// Leaves the links of a unit's block b, the `in_stage`th of its stage. A whole warp comes.
template <DType kDtype, int kTokens>
__device__ void MakeLinks(const LaneUnit<kDtype>& unit, int in_unit, const CodeRows& x, int tokens,
                          int b, int in_stage, int lane, const SharedArray<float>& links,
                          int stage_at) {
  using Shape = RowShape<kDtype, kTokens>;
  using Of = FragmentsOf<kDtype>;
  const auto blocks = static_cast<int>(x.blocks);  // so few that all indices are small
  uint2 of_tokens = {};
  if (lane / 4 < tokens) {
    of_tokens = reinterpret_cast<const uint2*>(x.codes)[(lane / 4 * blocks + b) * 4 + lane % 4];
  }
  float products[Of::kSteps][4];
  MultiplyBlockOfTile<kDtype>(unit, in_unit, of_tokens, products);
#pragma unroll
  for (int second = 0; second < (kTokens == 1 ? 1 : 2); ++second) {
    const int token = 2 * (lane % 4) + second;
    if (token >= tokens) continue;
    const float scale = x.scales[token * blocks + b];
#pragma unroll
    for (int i = 0; i < 2 * Of::kSteps; ++i) {
      const int step = i / 2;
      const ScaleOffset of_row = unit.ScaleOf(in_unit, i % 2, step);
      const int link = stage_at + Shape::LinkAt(in_stage, step, token, lane / 4 + i % 2 * 8);
      links[link] = of_row.scale * scale;
      links[link + Shape::kPlane] = products[step][i % 2 * 2 + second];
      if constexpr (Of::kTile.has_offset) links[link + 2 * Shape::kPlane] = of_row.offset * scale;
    }
  }
}

/// Multiplies the blocks [blocks.begin, blocks.end) of a tile with the first `tokens` rows of x.
/// Threads that add a row call take(sum) for each partial sum of `partial_blocks`, ascending, and
/// at the end for the rest. All threads of the block come.
template <DType kDtype, int kTokens, typename Take>
__device__ void MultiplyTile(const std::byte* tile, int64_t first_block, const CodeRows& x,
                             int tokens, const BlockRange& blocks, int partial_blocks,
                             const Take& take) {
  using Shape = RowShape<kDtype, kTokens>;
  using Of = FragmentsOf<kDtype>;
  const SharedArray<float> links(0);
  const int row = static_cast<int>(threadIdx.x) % kTileRows;
  const int strip = static_cast<int>(threadIdx.x) / kTileRows;
  const int warp = static_cast<int>(threadIdx.x) / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const bool adds = strip < tokens;  // then of token `strip`
  const UnitPlace place(first_block);
  const GlobalUnits units{tile, WeightReader(true)};
  const int begin = blocks.begin;
  const int end = blocks.end;
  const int end_unit = begin < end ? place.UnitOf(end - 1) + 1 : 0;

  LaneUnit<kDtype> of_lane[Shape::kTogether];
  const auto load = [&](int i, int stage) {
    const int unit = stage + i * Shape::kWarps + warp;
    if (unit >= end_unit) return;
    of_lane[i].Load(units, place.UnitAt<kDtype>(unit), place.SuperAt<kDtype>(place.SuperOf(unit)),
                    lane);
  };
  int stage = place.UnitOf(begin);
#pragma unroll
  for (int i = 0; i < Shape::kTogether; ++i) load(i, stage);
  WaitForKernelBefore();
  float sum = 0.0F;
  int left = partial_blocks;
  int stage_at = 0;
  for (; stage < end_unit; stage += Shape::kStageUnits) {
    const int first = place.FirstBlockOf(stage);
#pragma unroll
    for (int i = 0; i < Shape::kTogether; ++i) {
#pragma unroll
      for (int in_unit = 0; in_unit < kUnitBlocks; ++in_unit) {
        const int in_stage = (i * Shape::kWarps + warp) * kUnitBlocks + in_unit;
        if (first + in_stage < begin || first + in_stage >= end) continue;
        MakeLinks<kDtype, kTokens>(of_lane[i], in_unit, x, tokens, first + in_stage, in_stage, lane,
                                   links, stage_at);
      }
      load(i, stage + Shape::kStageUnits);
    }
    __syncthreads();
    if (adds) {
      const int from = begin > first ? begin - first : 0;
      const int to = end - first < Shape::kStageBlocks ? end - first : Shape::kStageBlocks;
#pragma unroll 4
      for (int i = from; i < to; ++i) {
#pragma unroll
        for (int step = 0; step < Of::kSteps; ++step) {
          const int link = stage_at + Shape::LinkAt(i, step, strip, row);
          sum = fmaf(links[link], links[link + Shape::kPlane], sum);
          if constexpr (Of::kTile.has_offset) {
            const int32_t of_token =
                SumOf<Of::kSteps>(x, strip * static_cast<int>(x.blocks) + first + i, step);
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

constexpr int kNoPartialSums = INT32_MAX;

/// A block of threads takes a tile.
template <DType kDtype, int kTokens>
__global__ void __launch_bounds__(RowShape<kDtype, kTokens>::kThreads,
                                  RowShape<kDtype, kTokens>::kResident)
    RowProductKernel(const __grid_constant__ JoinedMatrices weights, ProductInput x) {
  LetNextKernelStart();
  const int part_index = weights.PartOf(blockIdx.x);
  const JoinedMatrices::Part& part = weights.parts[part_index];
  const int64_t row = (blockIdx.x - weights.FirstTileOf(part_index)) * kTileRows +
                      static_cast<int>(threadIdx.x) % kTileRows;
  const int64_t token = threadIdx.x / kTileRows;
  MultiplyTile<kDtype, kTokens>(weights.TileAt(blockIdx.x), weights.first_block, x.codes,
                                static_cast<int>(x.tokens), {0, static_cast<int>(x.codes.blocks)},
                                kNoPartialSums, [&](float sum) {
                                  if (row < part.rows) part.out[token * part.rows + row] = sum;
                                });
}

/// Items of the cut are divided evenly over as many blocks of threads as run at once, and the
/// totals, which are integers, are added in any order.
template <DType kDtype, int kTokens>
__global__ void __launch_bounds__(RowShape<kDtype, kTokens>::kThreads,
                                  RowShape<kDtype, kTokens>::kPartialResident)
    RowPartialSumsKernel(const __grid_constant__ JoinedMatrices weights, ProductInput x,
                         ProductOutput out, ProductCut cut) {
  LetNextKernelStart();
  const int partial_blocks = static_cast<int>(out.partial_columns / kBlockColumns);
  const int64_t token = threadIdx.x / kTileRows;
  const int64_t end_item = cut.EndItemOf(blockIdx.x);
  int64_t item = cut.FirstItemOf(blockIdx.x);
  if (item == end_item) return WaitForKernelBefore();
  while (item < end_item) {
    const int64_t tile = item / cut.partials;
    const int64_t first = item - tile * cut.partials;
    int64_t last = first + (end_item - item);
    if (last > cut.partials) last = cut.partials;
    item += last - first;
    const int64_t end = last * partial_blocks;
    BlockRange blocks;
    blocks.begin = static_cast<int>(first * partial_blocks);
    blocks.end = static_cast<int>(end < x.codes.blocks ? end : x.codes.blocks);
    PartialSumTotals<1> totals;
    MultiplyTile<kDtype, kTokens>(weights.TileAt(tile), weights.first_block, x.codes,
                                  static_cast<int>(x.tokens), blocks, partial_blocks,
                                  [&](float sum) { totals.Add(0, sum); });
    const int64_t row = tile * kTileRows + static_cast<int>(threadIdx.x) % kTileRows;
    if (token < x.tokens && row < weights.parts[0].rows) {
      out.Add(totals, 0, row, token, weights.parts[0].rows);
    }
    __syncthreads();  // the links are written anew
  }
}

template <DType kDtype, int kTokens>
__global__ void __launch_bounds__(RowShape<kDtype, kTokens>::kThreads,
                                  RowShape<kDtype, kTokens>::kGatedResident)
    GatedRowProductKernel(GatedMatrices weights, ProductInput x, float* out) {
  LetNextKernelStart();
  const auto tokens = static_cast<int>(x.tokens);
  const BlockRange blocks = {0, static_cast<int>(x.codes.blocks)};
  const int64_t row = int64_t{blockIdx.x} * kTileRows + static_cast<int>(threadIdx.x) % kTileRows;
  const int64_t token = threadIdx.x / kTileRows;
  float gate_sum = 0.0F;
  MultiplyTile<kDtype, kTokens>(weights.gate.tiles + blockIdx.x * weights.gate.tile_bytes,
                                weights.gate.first_block, x.codes, tokens, blocks, kNoPartialSums,
                                [&](float sum) { gate_sum = sum; });
  __syncthreads();
  MultiplyTile<kDtype, kTokens>(
      weights.up.tiles + blockIdx.x * weights.up.tile_bytes, weights.up.first_block, x.codes,
      tokens, blocks, kNoPartialSums, [&](float sum) {
        if (row >= weights.up.rows) return;
        out[token * weights.up.rows + row] = Activate(weights.kind, gate_sum, sum);
      });
}

template <DType kDtype, int kTokens>
void LaunchRowPartialSumsOf(CudaStream stream, const JoinedMatrices& weights, const ProductInput& x,
                            const ProductOutput& out) {
  using Shape = RowShape<kDtype, kTokens>;
  const int64_t partial_blocks = out.partial_columns / kBlockColumns;
  const int64_t units = weights.tiles() * FragmentFormat::units(0, x.codes.blocks);
  // Where there is little to do, a block of threads has something for each of its warps rather than
  // company.
  const int64_t resident =
      std::clamp<int64_t>(units / (Processors() * Shape::kWarps), 1, Shape::kPartialResident);
  const ProductCut cut = CutOf({.tiles = weights.tiles(),
                                .tokens = kTokens,
                                .partials = (x.codes.blocks + partial_blocks - 1) / partial_blocks,
                                .is_partial_sums = true},
                               {.tiles = 1, .tokens = kTokens, .resident = resident}, Processors());
  Launch(stream, static_cast<unsigned>(cut.blocks), Shape::kThreads, Shape::kSharedBytes,
         RowPartialSumsKernel<kDtype, kTokens>, weights, x, out, cut);
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

void LaunchRowProduct(CudaStream stream, const JoinedMatrices& weights, const ProductInput& x) {
  ForQuantized(weights.dtype, [&](auto dtype) {
    ForTokens(x.tokens, [&](auto tokens) {
      constexpr auto kKernel = RowProductKernel<decltype(dtype)::value, decltype(tokens)::value>;
      using Shape = RowShape<decltype(dtype)::value, decltype(tokens)::value>;
      Launch(stream, static_cast<unsigned>(weights.tiles()), Shape::kThreads, Shape::kSharedBytes,
             kKernel, weights, x);
    });
  });
}

void LaunchRowPartialSums(CudaStream stream, const JoinedMatrices& weights, const ProductInput& x,
                          const ProductOutput& out) {
  ForQuantized(weights.dtype, [&](auto dtype) {
    ForTokens(x.tokens, [&](auto tokens) {
      LaunchRowPartialSumsOf<decltype(dtype)::value, decltype(tokens)::value>(stream, weights, x,
                                                                              out);
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
