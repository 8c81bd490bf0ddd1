#include "core/cuda/kernels/device_code.h"
#include "core/cuda/kernels/gpu_fragments.h"
#include "core/cuda/kernels/launch.h"
#include "core/cuda/kernels/linear_products.h"
#include "core/cuda/kernels/matrix_stages.h"
#include "core/cuda/kernels/product_cut.h"

namespace tandem::core {
namespace {

constexpr int kGroupTokens = 8;   // columns of a tensor core's product
constexpr int kSumsOfThread = 4;  // of a tile and a group: two rows times two tokens

/// How a block of threads multiplies what CutLimits lets it: a warp takes `warp_tiles` tiles times
/// `warp_groups` groups of 8 tokens. Weights and codes arrive in shared memory a super-block at a
/// time, `stages` of them at most on their way or in use.
struct MatrixSize {
  CutLimits limits;
  int warp_tiles;
  int warp_groups;
  int stages;
};

template <DType kDtype, MatrixSize kSize>
struct MatrixShape {
  using Of = FragmentsOf<kDtype>;
  static constexpr int kTiles = static_cast<int>(kSize.limits.tiles);
  static constexpr int kTokens = static_cast<int>(kSize.limits.tokens);
  static constexpr int kWarpTiles = kSize.warp_tiles;
  static constexpr int kWarpGroups = kSize.warp_groups;
  static constexpr int kTileWarps = kTiles / kWarpTiles;
  static constexpr int kWarps = kTileWarps * (kTokens / kGroupTokens / kWarpGroups);
  static constexpr int kThreads = kWarps * kLanes;
  static constexpr int kSums = kWarpTiles * kWarpGroups * kSumsOfThread;
  static constexpr int kStages = kSize.stages;
  // Leaves enough registers to spill none.
  static constexpr int kResident = static_cast<int>(kSize.limits.resident);
  // A stage in shared memory: codes, [kTokens] rows of which four lie in different banks; scales
  // [kSuperBlocks][kTokens] floats; sums [kSuperBlocks][kTokens] int2; tiles.
  static constexpr int kTileBytes = Of::kHeaderBytes + kSuperUnits * Of::kUnitBytes;
  static constexpr int kCodeRow = kSuperBlocks * kBlockColumns + 32;
  static constexpr int kScalesAt = kTokens * kCodeRow;
  static constexpr int kSumsAt = kScalesAt + kSuperBlocks * kTokens * 4;
  static constexpr int kTilesAt = kSumsAt + (Of::kTile.has_offset ? kSuperBlocks * kTokens * 8 : 0);
  static constexpr MatrixStages StagesIn(int64_t shared_bytes) {
    return FitStages({kTiles, kTileBytes, kTilesAt, kStages}, shared_bytes);
  }
};

/// A product as all blocks of threads see it.
struct MatrixWork {
  JoinedMatrices weights;
  ProductInput x;
  ProductOutput out;
  ProductCut cut;
  MatrixStages stages;
  int partial_blocks;  // of a partial sum
};

/// Walks over the stages that a block of threads multiplies: the super-blocks of one segment after
/// the other. A segment is partial sums that follow each other, of a group of tiles and a part of
/// the tokens.
template <typename Shape>
class Stages {
 public:
  __device__ explicit Stages(const MatrixWork& work)
      : work_(work), place_(work.weights.first_block), item_(work.cut.FirstItemOf(blockIdx.x)) {
    NextSegment();
  }

  __device__ bool there() const { return there_; }
  __device__ int first_tile() const { return first_tile_; }
  __device__ int tiles() const { return tiles_; }
  __device__ int first_token() const { return first_token_; }
  __device__ int tokens() const { return tokens_; }
  __device__ int super() const { return super_; }
  /// Blocks of the segment.
  __device__ int begin() const { return begin_; }
  __device__ int end() const { return end_; }
  /// Units of the stage, and the block that the first of them begins with.
  __device__ int first_unit() const {
    const int of_segment = place_.UnitOf(begin_);
    const int of_super = place_.FirstUnitOf(super_);
    return of_segment > of_super ? of_segment : of_super;
  }
  __device__ int units() const {
    const int of_segment = place_.UnitOf(end_ - 1) + 1;
    const int of_super = place_.FirstUnitOf(super_ + 1);
    return (of_segment < of_super ? of_segment : of_super) - first_unit();
  }
  __device__ int first_block() const { return place_.FirstBlockOf(first_unit()); }
  __device__ const UnitPlace& place() const { return place_; }
  __device__ bool ends_segment() const { return super_ == place_.SuperOf(place_.UnitOf(end_ - 1)); }

  __device__ void Next() {
    if (ends_segment()) {
      NextSegment();
    } else {
      ++super_;
    }
  }

 private:
  __device__ void NextSegment() {
    const ProductCut& cut = work_.cut;
    const int64_t end_item = cut.EndItemOf(blockIdx.x);
    there_ = item_ < end_item;
    if (!there_) return;
    const int64_t line = item_ / cut.partials;
    const int64_t first = item_ - line * cut.partials;
    int64_t last = first + (end_item - item_);
    if (last > cut.partials) last = cut.partials;
    item_ += last - first;
    const int64_t group = line / cut.parts;
    const int64_t part = line - group * cut.parts;
    first_tile_ = static_cast<int>(cut.FirstTileOf(group));
    tiles_ = static_cast<int>(cut.FirstTileOf(group + 1)) - first_tile_;
    first_token_ = static_cast<int>(part) * Shape::kTokens;
    const int64_t tokens = work_.x.tokens - first_token_;
    tokens_ = tokens < Shape::kTokens ? static_cast<int>(tokens) : Shape::kTokens;
    begin_ = static_cast<int>(first * work_.partial_blocks);
    const int64_t end = last * work_.partial_blocks;
    end_ = static_cast<int>(end < work_.x.codes.blocks ? end : work_.x.codes.blocks);
    super_ = place_.SuperOf(place_.UnitOf(begin_));
  }

  const MatrixWork& work_;
  const UnitPlace place_;
  int64_t item_;
  bool there_ = false;
  int first_tile_ = 0;
  int tiles_ = 0;
  int first_token_ = 0;
  int tokens_ = 0;
  int begin_ = 0;
  int end_ = 0;
  int super_ = 0;
};

/// Puts the copies of a stage's tiles on their way.
template <DType kDtype, typename Shape>
__device__ void PutTiles(const JoinedMatrices& weights, const WeightReader& reader,
                         const Stages<Shape>& stage, int at) {
  using Of = FragmentsOf<kDtype>;
  constexpr int kCopyWarps = Shape::kTiles < Shape::kWarps ? Shape::kTiles : Shape::kWarps;
  constexpr int kHeaderPieces = Of::kHeaderBytes / 16;
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kLanes;
  const int header = stage.place().template SuperAt<kDtype>(stage.super());
  const int units = stage.place().template UnitAt<kDtype>(stage.first_unit());
  const int pieces = kHeaderPieces + stage.units() * (Of::kUnitBytes / 16);
  for (int tile = warp % kCopyWarps; tile < stage.tiles(); tile += kCopyWarps) {
    const std::byte* bytes = weights.TileAt(stage.first_tile() + tile);
    const int to = at + Shape::kTilesAt + tile * Shape::kTileBytes;
    for (int i = warp / kCopyWarps * kLanes + thread % kLanes; i < pieces;
         i += Shape::kWarps / kCopyWarps * kLanes) {
      const std::byte* from =
          bytes + (i < kHeaderPieces ? header : units - Of::kHeaderBytes) + 16 * i;
      reader.CopyAsync16(to + 16 * i, from);
    }
  }
}

/// Puts the copies of its tokens' codes on their way, with their sums for types with an offset.
template <bool kSums, typename Shape>
__device__ void PutCodes(const CodeRows& x, const Stages<Shape>& stage, int at) {
  constexpr int kPieces = kSuperBlocks * kBlockColumns / 16;  // of a token
  const int first = stage.first_block();
  // Of whole groups; what is not there is the last token, whose sums nobody wants.
  const int slots = (stage.tokens() + kGroupTokens - 1) / kGroupTokens * kGroupTokens;
  const auto row_of = [&](int slot) {
    return int64_t{stage.first_token() + (slot < stage.tokens() ? slot : stage.tokens() - 1)} *
           x.blocks;
  };
  const auto is_there = [&](int in_stage) {
    return first + in_stage >= stage.begin() && first + in_stage < stage.end();
  };
  for (int i = static_cast<int>(threadIdx.x); i < slots * kPieces; i += Shape::kThreads) {
    const int slot = i / kPieces;
    const int piece = i % kPieces;
    if (!is_there(piece / 2)) continue;
    CopyAsync<16>(at + slot * Shape::kCodeRow + 16 * piece,
                  x.codes + (row_of(slot) + first) * kBlockColumns + 16 * piece);
  }
  for (int i = static_cast<int>(threadIdx.x); i < slots * kSuperBlocks; i += Shape::kThreads) {
    const int slot = i / kSuperBlocks;
    const int in_stage = i % kSuperBlocks;
    if (!is_there(in_stage)) continue;
    const int64_t from = row_of(slot) + first + in_stage;
    const int to = in_stage * Shape::kTokens + slot;
    CopyAsync<4>(at + Shape::kScalesAt + 4 * to, x.scales + from);
    if constexpr (kSums) CopyAsync<8>(at + Shape::kSumsAt + 8 * to, x.sums + 2 * from);
  }
}

/// What a thread of a warp multiplies: rows `row` and row + 8 of each of the warp's tiles; of each
/// group it reads the codes of token `row`, and holds the sums of tokens 2 four and 2 four + 1.
struct WarpPlace {
  int lane;
  int row;
  int four;
  int first_tile;
  int first_group;
};

/// sums += the warp's tiles times its groups of tokens, over block `in_unit` of a unit, which is
/// block `in_stage` of its stage.
template <DType kDtype, typename Shape>
__device__ void MultiplyBlock(const LaneUnit<kDtype> (&units)[Shape::kWarpTiles], int in_unit,
                              int stage_at, int in_stage, int tiles, int groups,
                              const WarpPlace& place, float (&sums)[Shape::kSums]) {
  using Of = FragmentsOf<kDtype>;
  ScaleOffset rows[Shape::kWarpTiles][2][Of::kSteps];
#pragma unroll
  for (int tile = 0; tile < Shape::kWarpTiles; ++tile) {
    if (tile >= tiles) continue;
#pragma unroll
    for (int i = 0; i < 2 * Of::kSteps; ++i) {
      rows[tile][i / Of::kSteps][i % Of::kSteps] =
          units[tile].ScaleOf(in_unit, i / Of::kSteps, i % Of::kSteps);
    }
  }
#pragma unroll
  for (int g = 0; g < Shape::kWarpGroups; ++g) {
    const int group = place.first_group + g;
    if (group >= groups) continue;
    const uint2 of_tokens =
        SharedUnits().Load8(stage_at + (group * kGroupTokens + place.row) * Shape::kCodeRow +
                            in_stage * kBlockColumns + 8 * place.four);
    const int pair = (in_stage * Shape::kTokens + group * kGroupTokens) / 2 + place.four;
    const float2 scales = SharedArray<float2>(stage_at + Shape::kScalesAt)[pair];
    // Of the thread's two tokens: the sums of their codes, by halves.
    int4 totals = {};
    if constexpr (Of::kTile.has_offset) {
      totals = SharedArray<int4>(stage_at + Shape::kSumsAt)[pair];
    }
#pragma unroll
    for (int tile = 0; tile < Shape::kWarpTiles; ++tile) {
      if (tile >= tiles) continue;
      float products[Of::kSteps][kSumsOfThread];
      MultiplyBlockOfTile<kDtype>(units[tile], in_unit, of_tokens, products);
      float* const of_tile = sums + (tile * Shape::kWarpGroups + g) * kSumsOfThread;
#pragma unroll
      for (int step = 0; step < Of::kSteps; ++step) {
#pragma unroll
        for (int i = 0; i < kSumsOfThread; ++i) {
          const ScaleOffset& row = rows[tile][i / 2][step];
          const float scale = i % 2 == 0 ? scales.x : scales.y;
          of_tile[i] = fmaf(row.scale * scale, products[step][i], of_tile[i]);
          if constexpr (Of::kTile.has_offset) {
            const int32_t first = i % 2 == 0 ? totals.x : totals.z;
            const int32_t second = i % 2 == 0 ? totals.y : totals.w;
            const int32_t total = Of::kSteps == 2 ? (step == 0 ? first : second) : first + second;
            of_tile[i] = fmaf(row.offset * scale, static_cast<float>(total), of_tile[i]);
          }
        }
      }
    }
  }
}

/// Waits for the oldest of the stages that are on their way.
template <int kMostStages>
__device__ void WaitForStage(int stages) {
  if constexpr (kMostStages > 2) {
    if (stages < kMostStages) return WaitForStage<kMostStages - 1>(stages);
  }
  WaitForCopies<kMostStages - 2>();
}

/// As many blocks of threads as run at once, each with its share of the work.
template <DType kDtype, typename Shape, bool kPartialSums>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kResident)
    MatrixProductKernel(const __grid_constant__ MatrixWork work) {
  using Of = FragmentsOf<kDtype>;
  LetNextKernelStart();
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int warp = static_cast<int>(threadIdx.x) / kLanes;
  const WarpPlace place = {lane, lane / 4, lane % 4, warp % Shape::kTileWarps * Shape::kWarpTiles,
                           warp / Shape::kTileWarps * Shape::kWarpGroups};
  const WeightReader reader(work.cut.parts == 1);
  const int stage_bytes = work.stages.stage_bytes;
  const int last_stage_at = (work.stages.stages - 1) * stage_bytes;
  Stages<Shape> coming(work);
  Stages<Shape> stage = coming;
  const auto put = [&](int at) {
    if (coming.there()) {
      PutTiles<kDtype>(work.weights, reader, coming, at);
      PutCodes<Of::kTile.has_offset>(work.x.codes, coming, at);
      coming.Next();
    }
    CommitCopies();
  };
  if (coming.there()) PutTiles<kDtype>(work.weights, reader, coming, 0);
  WaitForKernelBefore();
  if (coming.there()) {
    PutCodes<Of::kTile.has_offset>(work.x.codes, coming, 0);
    coming.Next();
  }
  CommitCopies();
  if constexpr (Shape::kStages > 2) {
#pragma unroll 1
    for (int at = stage_bytes; at < last_stage_at; at += stage_bytes) put(at);
  }

  float sums[Shape::kSums] = {};
  PartialSumTotals<kPartialSums ? Shape::kSums : 1> totals;
  const auto end_partial_sum = [&] {
    if constexpr (kPartialSums) {
#pragma unroll
      for (int i = 0; i < Shape::kSums; ++i) {
        totals.Add(i, sums[i]);
        sums[i] = 0.0F;
      }
    }
  };
  int left = work.partial_blocks;
  int stage_at = 0;
  for (; stage.there(); stage.Next()) {
    WaitForStage<Shape::kStages>(work.stages.stages);
    // Behind it the stage has arrived for all, and nobody reads the one that is written next.
    __syncthreads();
    put(stage_at == 0 ? last_stage_at : stage_at - stage_bytes);
    const int tiles = stage.tiles() - place.first_tile;  // of the warp, if it is not less
    const int groups = (stage.tokens() + kGroupTokens - 1) / kGroupTokens;
    const int units = stage.units();
    const int first_block = stage.first_block();
    for (int u = 0; u < units; ++u) {
      LaneUnit<kDtype> of_lane[Shape::kWarpTiles];
#pragma unroll
      for (int tile = 0; tile < Shape::kWarpTiles; ++tile) {
        if (tile >= tiles) continue;
        const int tile_at =
            stage_at + Shape::kTilesAt + (place.first_tile + tile) * Shape::kTileBytes;
        of_lane[tile].Load(SharedUnits(), tile_at + Of::kHeaderBytes + u * Of::kUnitBytes, tile_at,
                           lane);
      }
#pragma unroll
      for (int in_unit = 0; in_unit < kUnitBlocks; ++in_unit) {
        const int in_stage = kUnitBlocks * u + in_unit;
        if (first_block + in_stage < stage.begin() || first_block + in_stage >= stage.end()) {
          continue;
        }
        MultiplyBlock<kDtype, Shape>(of_lane, in_unit, stage_at, in_stage, tiles, groups, place,
                                     sums);
        if constexpr (kPartialSums) {
          if (--left > 0) continue;
          end_partial_sum();
          left = work.partial_blocks;
        }
      }
    }
    stage_at = stage_at == last_stage_at ? 0 : stage_at + stage_bytes;
    if (!stage.ends_segment()) continue;
    end_partial_sum();
    left = work.partial_blocks;
#pragma unroll
    for (int t = 0; t < Shape::kWarpTiles; ++t) {
      const int64_t tile = stage.first_tile() + place.first_tile + t;
      const bool tile_there = place.first_tile + t < stage.tiles();
      const int part_index = tile_there ? work.weights.PartOf(tile) : 0;
      const JoinedMatrices::Part& part = work.weights.parts[part_index];
      const int64_t first_row =
          (tile - work.weights.FirstTileOf(part_index)) * kTileRows + place.row;
#pragma unroll
      for (int of_tile = 0; of_tile < Shape::kWarpGroups * kSumsOfThread; ++of_tile) {
        const int i = of_tile % kSumsOfThread;
        const int sum = t * Shape::kWarpGroups * kSumsOfThread + of_tile;
        const int64_t row = first_row + i / 2 * 8;
        const int token =
            (place.first_group + of_tile / kSumsOfThread) * kGroupTokens + 2 * place.four + i % 2;
        const bool wanted = tile_there && row < part.rows && token < stage.tokens();
        if constexpr (kPartialSums) {
          if (wanted) {
            work.out.Add(totals, sum, row, stage.first_token() + token, part.rows);
          }
          totals.Clear(sum);
        } else {
          if (wanted) part.out[int64_t{stage.first_token() + token} * part.rows + row] = sums[sum];
          sums[sum] = 0.0F;
        }
      }
    }
  }
  WaitForCopies<0>();  // of groups without copies
}

template <DType kDtype, MatrixSize kSize, bool kPartialSums>
void LaunchSize(CudaStream stream, MatrixWork& work) {
  using Shape = MatrixShape<kDtype, kSize>;
  static_assert(Shape::StagesIn(kLeastSharedBytes).tiles >= 1);
  work.stages = Shape::StagesIn(SharedBytesOfBlock());
  const auto kernel = MatrixProductKernel<kDtype, Shape, kPartialSums>;
  static const bool allowed = AllowSharedBytes(kernel, work.stages.bytes());
  static_cast<void>(allowed);
  Launch(stream, static_cast<unsigned>(work.cut.blocks), Shape::kThreads,
         static_cast<size_t>(work.stages.bytes()), kernel, work);
}

constexpr MatrixSize kFewTokens = {kFewTokensCut, 1, 1, 4};
constexpr MatrixSize kSomeTokens = {kSomeTokensCut, 1, 4, 3};
constexpr MatrixSize kSomePartialSums = {kPartialSumsCut, 1, 4, 3};
constexpr MatrixSize kManyTokens = {kManyTokensCut, 2, 8, 2};

template <DType kDtype>
void LaunchOf(CudaStream stream, const MatrixForm form, MatrixWork& work) {
  const bool partial_sums = work.out.sums != nullptr;
  switch (form) {
    case MatrixForm::kFewTokens:
      return partial_sums ? LaunchSize<kDtype, kFewTokens, true>(stream, work)
                          : LaunchSize<kDtype, kFewTokens, false>(stream, work);
    case MatrixForm::kSomeTokens:
      return LaunchSize<kDtype, kSomeTokens, false>(stream, work);
    case MatrixForm::kManyTokens:
      return LaunchSize<kDtype, kManyTokens, false>(stream, work);
    case MatrixForm::kPartialSums:
      return LaunchSize<kDtype, kSomePartialSums, true>(stream, work);
  }
}

template <DType kDtype, MatrixSize kSize>
CutLimits LimitsOf() {
  CutLimits limits = kSize.limits;
  limits.tiles = MatrixShape<kDtype, kSize>::StagesIn(SharedBytesOfBlock()).tiles;
  return limits;
}

/// What the GPU's shared memory leaves of the forms.
MatrixForms FormsOf(DType type) {
  MatrixForms forms;
  ForQuantized(type, [&](auto dtype) {
    constexpr DType kDtype = decltype(dtype)::value;
    forms = {LimitsOf<kDtype, kFewTokens>(), LimitsOf<kDtype, kSomeTokens>(),
             LimitsOf<kDtype, kManyTokens>(), LimitsOf<kDtype, kSomePartialSums>()};
  });
  return forms;
}

void LaunchCut(CudaStream stream, const CutProduct& product, MatrixWork& work) {
  const MatrixCut chosen = ChooseCut(product, Processors(), FormsOf(work.weights.dtype));
  work.cut = chosen.cut;
  ForQuantized(work.weights.dtype,
               [&](auto dtype) { LaunchOf<decltype(dtype)::value>(stream, chosen.form, work); });
}

}  // namespace

void LaunchMatrixProduct(CudaStream stream, const JoinedMatrices& weights, const ProductInput& x) {
  if (x.codes.blocks == 0) {
    for (const JoinedMatrices::Part& part : weights.parts) {
      if (part.rows == 0) continue;
      CheckCuda(cudaMemsetAsync(part.out, 0,
                                static_cast<size_t>(x.tokens * part.rows) * sizeof(float), stream),
                "cudaMemsetAsync");
    }
    return;
  }
  MatrixWork work = {weights, x, {}, {}, {}, static_cast<int>(x.codes.blocks)};
  LaunchCut(stream, {.tiles = weights.tiles(), .tokens = x.tokens}, work);
}

void LaunchMatrixPartialSums(CudaStream stream, const JoinedMatrices& weights,
                             const ProductInput& x, const ProductOutput& out) {
  const int64_t partial_blocks = out.partial_columns / kBlockColumns;
  MatrixWork work = {weights, x, out, {}, {}, static_cast<int>(partial_blocks)};
  LaunchCut(stream,
            {.tiles = weights.tiles(),
             .tokens = x.tokens,
             .partials = (x.codes.blocks + partial_blocks - 1) / partial_blocks,
             .is_partial_sums = true},
            work);
}

}  // namespace tandem::core
