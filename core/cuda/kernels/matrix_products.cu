#include "core/cuda/kernels/device_code.h"
#include "core/cuda/kernels/gpu_tile.h"
#include "core/cuda/kernels/launch.h"
#include "core/cuda/kernels/linear_products.h"

namespace tandem::core {
namespace {

constexpr int kGroupTokens = 8;   // columns of a tensor core's product
constexpr int kSumsOfThread = 4;  // of a tile and a group: two rows times two tokens

/// How a block of threads multiplies kTiles tiles with kGroups groups of tokens: a warp takes
/// kWarpTiles tiles times kWarpGroups groups. Weights and codes arrive in shared memory a
/// super-block at a time, kStages of them on their way or in use.
template <DType kDtype, int kGroupCount, int kTileCount, int kTilesOfWarp, int kGroupsOfWarp>
struct MatrixShape {
  using Tile = TileOf<kDtype>;
  static constexpr int kGroups = kGroupCount;
  static constexpr int kTiles = kTileCount;
  static constexpr int kWarpTiles = kTilesOfWarp;
  static constexpr int kWarpGroups = kGroupsOfWarp;
  static constexpr int kTileWarps = kTiles / kWarpTiles;
  static constexpr int kThreads = kTileWarps * (kGroups / kWarpGroups) * 32;
  static constexpr int kTokens = kGroups * kGroupTokens;
  static constexpr int kSums = kWarpTiles * kWarpGroups * kSumsOfThread;
  static constexpr int kStages = kTiles > 2 ? 2 : 3;
  // Blocks of threads on a multiprocessor: leaves enough registers to spill none.
  static constexpr int kResident = kTiles > 2 ? 2 : 3;
  // A stage in shared memory: tiles; codes, [kTokens] rows of which eight lie in different banks;
  // scales [kSuperBlocks][kTokens] floats; sums [kSuperBlocks][kTokens] int2.
  static constexpr int kTileBytes =
      static_cast<int>(Tile::kHeaderBytes + kSuperBlocks * Tile::kBlockBytes);
  static constexpr int kCodeRow = kSuperBlocks * kBlockColumns + 16;
  static constexpr int kCodesAt = kTiles * kTileBytes;
  static constexpr int kScalesAt = kCodesAt + kTokens * kCodeRow;
  static constexpr int kSumsAt = kScalesAt + kSuperBlocks * kTokens * 4;
  static constexpr int kStageBytes =
      kSumsAt + (Tile::kFormat.has_offset ? kSuperBlocks * kTokens * 8 : 0);
  static constexpr int kSharedBytes = kStages * kStageBytes;
};

/// The blocks of a super-block that a tile has.
struct Stage {
  int64_t super;
  int64_t first;  // block of the tile
  int count;

  __device__ Stage(int64_t super_block, int64_t first_block, int64_t blocks)
      : super(super_block), first(super_block * kSuperBlocks - first_block) {
    if (first < 0) first = 0;
    int64_t end = (super + 1) * kSuperBlocks - first_block;
    if (end > blocks) end = blocks;
    count = static_cast<int>(end - first);
  }
};

/// Puts copies on their way: a stage of a block's tiles, or of its tokens' codes.
template <typename Shape>
struct Copies {
  const TileMatrix& weights;
  const CodeRows& x;
  int64_t first_tile;
  int tiles;  // that are there
  int64_t first_token;
  int tokens;  // that are there
  int slots;  // of tokens that are read: what is not there is the last one, whose sums nobody wants

  /// Block `block` of the token in a slot.
  __device__ int64_t BlockOf(int slot, int64_t block) const {
    return (first_token + (slot < tokens ? slot : tokens - 1)) * x.blocks + block;
  }

  template <DType kDtype>
  __device__ void PutTiles(const Stage& stage, int at) const {
    using Tile = TileOf<kDtype>;
    const int64_t from = SuperBlockAt<kDtype>(stage.super, weights.first_block);
    const int pieces = static_cast<int>(Tile::kHeaderBytes + stage.count * Tile::kBlockBytes) / 16;
    for (int tile = 0; tile < tiles; ++tile) {
      const std::byte* bytes = weights.tiles + (first_tile + tile) * weights.tile_bytes + from;
      for (int i = static_cast<int>(threadIdx.x); i < pieces; i += Shape::kThreads) {
        CopyAsync<16>(at + tile * Shape::kTileBytes + 16 * i, bytes + 16 * i);
      }
    }
  }

  template <bool kSums>
  __device__ void PutCodes(const Stage& stage, int at) const {
    constexpr int kPieces = kSuperBlocks * kBlockColumns / 16;  // of a token
    for (int i = static_cast<int>(threadIdx.x); i < slots * kPieces; i += Shape::kThreads) {
      const int slot = i / kPieces;
      const int piece = i % kPieces;
      if (piece >= stage.count * kBlockColumns / 16) continue;
      CopyAsync<16>(at + Shape::kCodesAt + slot * Shape::kCodeRow + 16 * piece,
                    x.codes + BlockOf(slot, stage.first) * kBlockColumns + 16 * piece);
    }
    for (int i = static_cast<int>(threadIdx.x); i < slots * kSuperBlocks; i += Shape::kThreads) {
      const int slot = i / kSuperBlocks;
      const int block = i % kSuperBlocks;
      if (block >= stage.count) continue;
      const int64_t from = BlockOf(slot, stage.first + block);
      const int to = block * Shape::kTokens + slot;
      CopyAsync<4>(at + Shape::kScalesAt + 4 * to, x.scales + from);
      if constexpr (kSums) CopyAsync<8>(at + Shape::kSumsAt + 8 * to, x.sums + 2 * from);
    }
  }
};

/// What a thread of a warp multiplies: rows `row` and row + 8 of each of the warp's tiles; of each
/// group it reads the codes of token `row`, and holds the sums of tokens 2 four and 2 four + 1.
struct Lane {
  int row;
  int four;

  __device__ Lane()
      : row(static_cast<int>(threadIdx.x % kWarpThreads) / 4),
        four(static_cast<int>(threadIdx.x) % 4) {}
};

/// Codes less their zero point, as signed bytes.
template <DType kDtype>
__device__ uint32_t SignedCodes(const SharedBytes& bytes, int block_at, int row, int half,
                                int group) {
  constexpr TileFormat kFormat = TileOf<kDtype>::kFormat;
  const RowWords<kDtype> words{bytes, block_at + static_cast<int>(kLaneBytes) * row};
  const uint32_t codes = CodesFrom<kFormat.code_bits>(words, half, group);
  if constexpr (kFormat.code_bits == 8 || kFormat.zero_point == 0) {
    return codes;
  } else {
    // No byte borrows of the next: 0x80 is more than any zero point.
    return ((codes | 0x80808080) - 0x01010101 * kFormat.zero_point) ^ 0x80808080;
  }
}

/// A warp's tile in a block of columns, as the tensor cores take it.
template <DType kDtype>
struct TileFragment {
  static constexpr TileFormat kFormat = TileOf<kDtype>::kFormat;
  static constexpr int kSteps = kFormat.scales_per_block;
  uint32_t codes[4];  // of half h: 2 h and 2 h + 1
  ScaleOffset rows[2][kSteps];

  /// tile_at: of the super-block's header; in_super: which of its blocks that are there.
  __device__ void Load(const SharedBytes& bytes, int tile_at, int in_super, const Lane& lane) {
    using Tile = TileOf<kDtype>;
    const int block_at =
        tile_at + static_cast<int>(Tile::kHeaderBytes + in_super * Tile::kBlockBytes);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      codes[i] = SignedCodes<kDtype>(bytes, block_at, lane.row + 8 * (i % 2), i / 2, lane.four);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      LaneScales<kDtype> scales;
      scales.Load(bytes, block_at + static_cast<int>(Tile::kCodeBytes), tile_at, lane.row + 8 * i);
#pragma unroll
      for (int step = 0; step < kSteps; ++step) rows[i][step] = scales.Of(step);
    }
  }

  /// sums += this tile times a group of tokens over the block (rule 2). scales, totals: of the
  /// thread's two tokens; totals has its codes' sums by halves, for types with an offset.
  __device__ void MultiplyAdd(const uint32_t (&of_tokens)[2], float2 scales, int4 totals,
                              float* sums) const {
    // Bits of the float 12582912 + S are those of 12582912 and S added, for |S| < 2^22.
    constexpr int32_t kStart = 0x4B400000;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      int32_t products[kSumsOfThread];
      if constexpr (kSteps == 2) {
        const uint32_t half[2] = {codes[2 * step], codes[2 * step + 1]};
        MultiplyBytes16(half, of_tokens[step], kStart, products);
      } else {
        MultiplyBytes32(codes, of_tokens, kStart, products);
      }
#pragma unroll
      for (int i = 0; i < kSumsOfThread; ++i) {
        const ScaleOffset& row = rows[i / 2][step];
        const float scale = i % 2 == 0 ? scales.x : scales.y;
        sums[i] = fmaf(row.scale * scale, __int_as_float(products[i]) - 12582912.0F, sums[i]);
        if constexpr (kFormat.has_offset) {
          const int32_t first = i % 2 == 0 ? totals.x : totals.z;
          const int32_t second = i % 2 == 0 ? totals.y : totals.w;
          const int32_t total = kSteps == 2 ? (step == 0 ? first : second) : first + second;
          sums[i] = fmaf(row.offset * scale, static_cast<float>(total), sums[i]);
        }
      }
    }
  }
};

/// sums += the warp's tiles times its groups of tokens, over one block of a stage.
template <DType kDtype, typename Shape>
__device__ void MultiplyBlock(int stage_at, int in_super, int first_tile, int tiles,
                              int first_group, int groups, const Lane& lane,
                              float (&sums)[Shape::kSums]) {
  constexpr bool kHasOffset = TileOf<kDtype>::kFormat.has_offset;
  const SharedBytes bytes{SharedArray<uint32_t>(stage_at)};
  const SharedArray<float2> scales(stage_at + Shape::kScalesAt);
  const SharedArray<int4> totals(stage_at + Shape::kSumsAt);
  TileFragment<kDtype> fragments[Shape::kWarpTiles];
#pragma unroll
  for (int i = 0; i < Shape::kWarpTiles; ++i) {
    if (first_tile + i >= tiles) continue;
    fragments[i].Load(bytes, (first_tile + i) * Shape::kTileBytes, in_super, lane);
  }
#pragma unroll
  for (int g = 0; g < Shape::kWarpGroups; ++g) {
    const int group = first_group + g;
    if (group >= groups) continue;
    const int codes_at = Shape::kCodesAt + (group * kGroupTokens + lane.row) * Shape::kCodeRow +
                         in_super * kBlockColumns + 4 * lane.four;
    const uint32_t of_tokens[2] = {bytes.Word(codes_at), bytes.Word(codes_at + 16)};
    const int pair = (in_super * Shape::kTokens + group * kGroupTokens) / 2 + lane.four;
    const float2 of_pair = scales[pair];
    int4 sums_of_pair = {};
    if constexpr (kHasOffset) sums_of_pair = totals[pair];
#pragma unroll
    for (int i = 0; i < Shape::kWarpTiles; ++i) {
      if (first_tile + i >= tiles) continue;
      fragments[i].MultiplyAdd(of_tokens, of_pair, sums_of_pair,
                               sums + (i * Shape::kWarpGroups + g) * kSumsOfThread);
    }
  }
}

/// gridDim.x parts of the tokens, gridDim.y parts of the tiles: blocks that read the same weights
/// run side by side.
template <DType kDtype, typename Shape, bool kPartialSums>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kResident)
    MatrixProductKernel(TileMatrix weights, ProductInput x, ProductOutput out) {
  LetNextKernelStart();
  const int64_t all_tiles = (weights.rows + kTileRows - 1) / kTileRows;
  const int64_t block_tile = int64_t{blockIdx.y} * Shape::kTiles;
  const int64_t block_token = int64_t{blockIdx.x} * Shape::kTokens;
  const int64_t tiles_left = all_tiles - block_tile;
  const int64_t tokens_left = x.tokens - block_token;
  const int tiles = tiles_left < Shape::kTiles ? static_cast<int>(tiles_left) : Shape::kTiles;
  const int tokens = tokens_left < Shape::kTokens ? static_cast<int>(tokens_left) : Shape::kTokens;
  const int groups = (tokens + kGroupTokens - 1) / kGroupTokens;
  const Copies<Shape> copies = {weights,     x.codes, block_tile,           tiles,
                                block_token, tokens,  groups * kGroupTokens};
  const Lane lane;
  const int warp = static_cast<int>(threadIdx.x / kWarpThreads);
  const int first_tile = warp % Shape::kTileWarps * Shape::kWarpTiles;
  const int first_group = warp / Shape::kTileWarps * Shape::kWarpGroups;

  const int64_t blocks = x.codes.blocks;
  const int64_t stages = (weights.first_block + blocks + kSuperBlocks - 1) / kSuperBlocks;
  const auto stage_at = [](int64_t index) {
    return static_cast<int>(index % Shape::kStages) * Shape::kStageBytes;
  };
  const auto put_tiles = [&](int64_t index) {
    if (index >= stages) return;
    copies.template PutTiles<kDtype>(Stage(index, weights.first_block, blocks), stage_at(index));
  };
  const auto put_codes = [&](int64_t index) {
    if (index >= stages) return;
    copies.template PutCodes<TileOf<kDtype>::kFormat.has_offset>(
        Stage(index, weights.first_block, blocks), stage_at(index));
  };
  put_tiles(0);
  WaitForKernelBefore();
  put_codes(0);
  CommitCopies();
#pragma unroll
  for (int i = 1; i < Shape::kStages - 1; ++i) {
    put_tiles(i);
    put_codes(i);
    CommitCopies();
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
  const int64_t partial_blocks = out.partial_columns / kBlockColumns;
  int64_t left = partial_blocks;
  for (int64_t index = 0; index < stages; ++index) {
    WaitForCopies<Shape::kStages - 2>();
    // Behind it the stage has arrived for all, and nobody reads the one that is written next.
    __syncthreads();
    put_tiles(index + Shape::kStages - 1);
    put_codes(index + Shape::kStages - 1);
    CommitCopies();
    const Stage stage(index, weights.first_block, blocks);
    for (int b = 0; b < stage.count; ++b) {
      MultiplyBlock<kDtype, Shape>(stage_at(index), b, first_tile, tiles, first_group, groups, lane,
                                   sums);
      if constexpr (kPartialSums) {
        if (--left > 0) continue;
        end_partial_sum();
        left = partial_blocks;
      }
    }
  }
  WaitForCopies<0>();  // of groups without copies
  end_partial_sum();
#pragma unroll
  for (int sum = 0; sum < Shape::kSums; ++sum) {
    const int i = sum % kSumsOfThread;
    const int group = first_group + sum / kSumsOfThread % Shape::kWarpGroups;
    const int tile = first_tile + sum / kSumsOfThread / Shape::kWarpGroups;
    const int64_t row = (block_tile + tile) * kTileRows + lane.row + i / 2 * 8;
    const int token = group * kGroupTokens + 2 * lane.four + i % 2;
    if (row >= weights.rows || token >= tokens) continue;
    if constexpr (kPartialSums) {
      out.Add(totals, sum, row, block_token + token, weights.rows);
    } else {
      out.out[(block_token + token) * weights.rows + row] = sums[sum];
    }
  }
}

template <DType kDtype, typename Shape, bool kPartialSums>
void LaunchShape(CudaStream stream, const TileMatrix& weights, const ProductInput& x,
                 const ProductOutput& out) {
  const auto kernel = MatrixProductKernel<kDtype, Shape, kPartialSums>;
  static const bool allowed = AllowSharedBytes(kernel, Shape::kSharedBytes);
  static_cast<void>(allowed);
  Launch(stream,
         {Blocks(x.tokens, Shape::kTokens), Blocks(weights.rows, Shape::kTiles * kTileRows)},
         Shape::kThreads, Shape::kSharedBytes, kernel, weights, x, out);
}

// Fewer rows than this give no block of eight tiles to every multiprocessor of a large GPU.
constexpr int64_t kManyRows = 8192;

template <DType kDtype>
void LaunchOf(CudaStream stream, const TileMatrix& weights, const ProductInput& x,
              const ProductOutput& out) {
  if (out.out == nullptr) {
    // Totals take twice the registers of sums.
    if (x.tokens <= 16) {
      return LaunchShape<kDtype, MatrixShape<kDtype, 2, 2, 1, 1>, true>(stream, weights, x, out);
    }
    return LaunchShape<kDtype, MatrixShape<kDtype, 8, 2, 1, 4>, true>(stream, weights, x, out);
  }
  if (x.tokens <= 16) {
    LaunchShape<kDtype, MatrixShape<kDtype, 2, 2, 1, 1>, false>(stream, weights, x, out);
  } else if (x.tokens * weights.rows <= 64 * kManyRows) {
    LaunchShape<kDtype, MatrixShape<kDtype, 8, 2, 1, 4>, false>(stream, weights, x, out);
  } else {
    LaunchShape<kDtype, MatrixShape<kDtype, 8, 8, 2, 8>, false>(stream, weights, x, out);
  }
}

}  // namespace

void LaunchMatrixProduct(CudaStream stream, const TileMatrix& weights, const ProductInput& x,
                         const ProductOutput& out) {
  ForQuantized(weights.dtype,
               [&](auto dtype) { LaunchOf<decltype(dtype)::value>(stream, weights, x, out); });
}

}  // namespace tandem::core
