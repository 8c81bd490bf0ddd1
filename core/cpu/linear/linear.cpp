#include "core/cpu/linear/linear.h"

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>

#include "core/cpu/elementwise/elementwise.h"
#include "core/cpu/linear/linear_kernel.h"

namespace tandem::core {
namespace {

constexpr int64_t kGroup = Activations::kGroupTokens;

TileKernels KernelsFor(Isa isa, DType dtype) {
  switch (isa) {
    case Isa::kAvx512:
      return Avx512Kernels(dtype);
    case Isa::kAvx2:
      return Avx2Kernels(dtype);
    case Isa::kScalar:
      break;
  }
  return ScalarKernels(dtype);
}

/// How products that share their input are cut into tasks: runs of tiles times runs of token
/// groups. Sums are never cut.
struct Cut {
  int64_t tiles_per_task = 1;
  int64_t groups_per_task = 1;
};

/// tiles, tile_bytes: of all products together; the bytes of the largest.
Cut CutTasks(int64_t tiles, int64_t tile_bytes, const Activations& x, int threads) {
  // A task's activations should stay in a second-level cache while tiles stream past them.
  constexpr int64_t kCacheBytes = 384 * 1024;
  // Handing out a task costs about as much as reading this much.
  constexpr int64_t kTaskBytes = 8 * 1024;
  constexpr int64_t kTasksPerThread = 16;
  constexpr int64_t kOwnGroups = 4;
  Cut cut;
  cut.groups_per_task = std::clamp<int64_t>(
      kCacheBytes / (kGroup * std::max<int64_t>(x.columns(), 1)), 1, x.groups());
  if (threads == 1) {
    cut.tiles_per_task = tiles;
    return cut;
  }
  // With enough tokens each thread has its own, in all products of a layer and between them: what
  // it reads is then in its own cache, which may be far from the others'.
  const bool own_tokens = x.groups() >= kOwnGroups * threads;
  if (own_tokens) {
    cut.groups_per_task =
        std::min(cut.groups_per_task, (x.groups() + 2 * threads - 1) / (2 * threads));
  }
  const int64_t group_runs = (x.groups() + cut.groups_per_task - 1) / cut.groups_per_task;
  const int64_t worth_it = kTaskBytes / std::max<int64_t>(tile_bytes * cut.groups_per_task, 1);
  const int64_t even = tiles * group_runs / (threads * kTasksPerThread);
  cut.tiles_per_task = std::max<int64_t>({even, worth_it, 1});
  return cut;
}

/// Where a product goes: floats, or sums of partial sums, of rows from first_row and tokens from
/// first_token on.
struct Target {
  float* out = nullptr;
  int64_t partial_columns = 0;
  int64_t* sums = nullptr;
  int64_t stride = 0;         // elements from token to token, of either
  int64_t* failed = nullptr;  // [tokens]
  int64_t first_token = 0;
  int64_t first_row = 0;

  int64_t At(int64_t token, int64_t row) const {
    return (token - first_token) * stride + (row - first_row);
  }
};

/// What a task of a product does: tiles [tile, tile + tiles) with the tokens of groups
/// [group, end_group).
struct Piece {
  int64_t tile = 0;
  int64_t tiles = 0;
  int64_t group = 0;
  int64_t end_group = 0;
};

class Product {
 public:
  Product() = default;
  Product(Isa isa, const PackedMatrix& weights, const Activations& x)
      : weights_(&weights), x_(&x), kernels_(KernelsFor(isa, weights.dtype())) {}

  /// All of a piece.
  void Multiply(const Piece& piece, const Target& target) const {
    // A few tiles at a time, so that they stay in the first-level cache for all tokens.
    const int64_t end = piece.tile + piece.tiles;
    FetchInput();
    FetchTarget(piece.tile, target);
    for (int64_t tile = piece.tile; tile < end; tile += TileKernels::kMostTiles) {
      const int64_t tiles = std::min<int64_t>(end - tile, TileKernels::kMostTiles);
      // Behind the piece, too: the next one is most likely this thread's.
      if (tile + tiles < weights_->tiles()) FetchTarget(tile + tiles, target);
      for (int64_t group = piece.group; group < piece.end_group; ++group) {
        MultiplyGroup(tile, tiles, group, target);
      }
    }
  }

  /// Tiles with the tokens of one group.
  void MultiplyGroup(int64_t tile, int64_t tiles, int64_t group, const Target& target) const {
    const int64_t token = group * kGroup;
    MultiplyPart(tile, tiles, token, std::min(kGroup, x_->tokens() - token), target);
  }

 private:
  static constexpr int64_t kFewTokens = 2;
  static constexpr int64_t kLine = 64;

  static void Fetch(const void* data, int64_t bytes) {
    const auto* begin = static_cast<const char*>(data);
    for (int64_t i = 0; i < bytes; i += kLine) _mm_prefetch(begin + i, _MM_HINT_T0);
  }
  static void FetchToWrite(void* data, int64_t bytes) {
    auto* begin = static_cast<char*>(data);
    // An instruction of its own, which processors without it take for none.
    for (int64_t i = 0; i < bytes; i += kLine) asm volatile("prefetchw %0" : : "m"(begin[i]));
  }

  /// What another core wrote or read last comes line by line, each taking longer than the products
  /// of a tile with one token if it is waited for; asked for together, they come together. With
  /// many tokens there is enough to do meanwhile.
  void FetchInput() const {
    if (x_->tokens() > kFewTokens || !weights_->quantized()) return;
    const Activations::Group group = x_->group(0);
    const int64_t cells = group.tokens * x_->blocks();
    Fetch(group.codes, cells * kBlockColumns);
    Fetch(group.scales, cells * static_cast<int64_t>(sizeof(float)));
    Fetch(group.negative_sums, 3 * cells * static_cast<int64_t>(sizeof(int32_t)));
    Fetch(group.float_sums, 3 * cells * static_cast<int64_t>(sizeof(float)));
  }

  void FetchTarget(int64_t tile, const Target& target) const {
    if (x_->tokens() > kFewTokens) return;
    const int64_t row = tile * kTileRows;
    const int64_t rows =
        std::min<int64_t>(TileKernels::kMostTiles * kTileRows, weights_->rows() - row);
    for (int64_t token = 0; token < x_->tokens(); ++token) {
      const int64_t at = target.At(token, row);
      if (target.sums == nullptr) {
        FetchToWrite(target.out + at, rows * static_cast<int64_t>(sizeof(float)));
      } else {
        FetchToWrite(target.sums + at, rows * static_cast<int64_t>(sizeof(int64_t)));
      }
    }
  }

  static constexpr int64_t kMostPairs = TileKernels::kMostTiles * TileKernels::kMostTokens;

  /// Some tiles with some tokens of one group, by the kernels that fit. Which ones does not change
  /// the bits.
  void MultiplyPart(int64_t tile, int64_t tiles, int64_t token, int64_t tokens,
                    const Target& target) const {
    while (tokens > 0) {
      const TileKernel& kernel = Choose(tiles, tokens);
      const int64_t whole = tiles / kernel.tiles * kernel.tiles;
      for (int64_t first = 0; first < whole; first += kernel.tiles) {
        Run(kernel, tile + first, token, target);
      }
      if (whole < tiles) MultiplyPart(tile + whole, tiles - whole, token, kernel.tokens, target);
      token += kernel.tokens;
      tokens -= kernel.tokens;
    }
  }

  void Run(const TileKernel& kernel, int64_t tile, int64_t token, const Target& target) const {
    TileWork work = Work(tile, token, target);
    const int64_t row = tile * kTileRows;
    const int64_t rows = weights_->rows() - row;
    if (rows < kernel.tiles * kTileRows) return RunPadded(kernel, work, token, row, target);
    const int64_t at = target.At(token, row);
    work.out_stride = target.stride;
    if (target.sums == nullptr) {
      work.out = target.out + at;
      return kernel.run(work);
    }
    uint32_t failed_rows[kMostPairs] = {};
    work.partial_sums = target.sums + at;
    work.failed_rows = failed_rows;
    kernel.run(work);
    CountFailures(kernel, failed_rows, token, kernel.tiles * kTileRows, target);
  }

  /// The last rows, which do not fill their tile: what the padding gives goes nowhere.
  void RunPadded(const TileKernel& kernel, TileWork& work, int64_t token, int64_t row,
                 const Target& target) const {
    alignas(64) float floats[kMostPairs * kTileRows];
    alignas(64) int64_t sums[kMostPairs * kTileRows];
    uint32_t failed_rows[kMostPairs] = {};
    const int64_t rows = weights_->rows() - row;
    work.out_stride = kernel.tiles * kTileRows;
    work.out = target.sums == nullptr ? floats : nullptr;
    work.partial_sums = sums;
    work.failed_rows = failed_rows;
    kernel.run(work);
    for (int64_t t = 0; t < kernel.tokens; ++t) {
      const int64_t at = target.At(token + t, row);
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t from = t * work.out_stride + r;
        if (target.sums == nullptr) {
          target.out[at + r] = floats[from];
        } else {
          target.sums[at + r] = sums[from];
        }
      }
    }
    CountFailures(kernel, failed_rows, token, rows, target);
  }

  /// failed_rows: [tiles][tokens] of the kernel; rows: how many of them exist.
  static void CountFailures(const TileKernel& kernel, const uint32_t* failed_rows, int64_t token,
                            int64_t rows, const Target& target) {
    for (int64_t tile = 0; tile < kernel.tiles; ++tile) {
      const int64_t count = std::min<int64_t>(kTileRows, rows - tile * kTileRows);
      for (int64_t t = 0; t < kernel.tokens; ++t) {
        const uint32_t failed = failed_rows[tile * kernel.tokens + t] & ((1U << count) - 1);
        if (failed == 0) continue;
        std::atomic_ref<int64_t>(target.failed[token + t])
            .fetch_add(std::popcount(failed), std::memory_order_relaxed);
      }
    }
  }

  /// Quantized tiles with one token read memory fastest one after the other, as one stream. Only
  /// the longest do better several at a time, which read the token's codes once for all of them
  /// (measured: docs/performance.md).
  bool Suits(const TileKernel& kernel) const {
    constexpr int64_t kLongTileColumns = 8192;
    const bool shares_one_token = kernel.tokens == 1 && kernel.tiles > 1;
    return !shares_one_token || !weights_->quantized() || weights_->columns() >= kLongTileColumns;
  }

  /// The first kernel that suits and is not too large.
  const TileKernel& Choose(int64_t tiles, int64_t tokens) const {
    const TileKernel* kernel = kernels_.kernels;
    while (kernel->tiles > tiles || kernel->tokens > tokens || !Suits(*kernel)) ++kernel;
    return *kernel;
  }

  TileWork Work(int64_t tile, int64_t token, const Target& target) const {
    TileWork work;
    work.tile = weights_->tile(tile);
    work.tile_stride = weights_->tile_bytes();
    work.columns = weights_->columns();
    work.first_block = weights_->first_block();
    work.partial_columns = target.partial_columns;
    if (!weights_->quantized()) {
      work.x = x_->row(token);
      work.x_stride = x_->stride();
      return work;
    }
    const Activations::Group group = x_->group(token / kGroup);
    const int64_t in_group = token % kGroup;
    work.group_tokens = group.tokens;
    work.codes = group.codes + in_group * kBlockColumns;
    work.scales = group.scales + in_group;
    work.negative_sums = group.negative_sums + in_group;
    work.float_sums = group.float_sums + in_group;
    return work;
  }

  const PackedMatrix* weights_ = nullptr;
  const Activations* x_ = nullptr;
  TileKernels kernels_;
};

int64_t TileRuns(const Cut& cut, int64_t tiles) {
  return (tiles + cut.tiles_per_task - 1) / cut.tiles_per_task;
}

int64_t GroupRuns(const Cut& cut, const Activations& x) {
  return (x.groups() + cut.groups_per_task - 1) / cut.groups_per_task;
}

Piece PieceOf(const Cut& cut, int64_t tiles, const Activations& x, int64_t tile_run,
              int64_t group_run) {
  const int64_t tile = tile_run * cut.tiles_per_task;
  const int64_t group = group_run * cut.groups_per_task;
  return {.tile = tile,
          .tiles = std::min(cut.tiles_per_task, tiles - tile),
          .group = group,
          .end_group = std::min(group + cut.groups_per_task, x.groups())};
}

/// Runs body(piece) on the pool for all pieces of `tiles` tiles: tokens ascending, so that a
/// thread's share of the tasks, which lie together, has as few of them as can be.
template <typename Body>
void ForPieces(const Cut& cut, int64_t tiles, const Activations& x, ThreadPool& pool,
               const Body& body) {
  const int64_t runs = TileRuns(cut, tiles);
  pool.ParallelFor(runs * GroupRuns(cut, x), [&](int64_t task, int) {
    body(PieceOf(cut, tiles, x, task % runs, task / runs));
  });
}

}  // namespace

void Linear(Isa isa, std::span<const LinearJob> jobs, const Activations& x, ThreadPool& pool) {
  if (x.tokens() == 0) return;
  int64_t tiles = 0;
  int64_t tile_bytes = 0;
  for (const LinearJob& job : jobs) {
    tiles += job.weights->tiles();
    tile_bytes = std::max(tile_bytes, job.weights->tile_bytes());
  }
  if (tiles == 0) return;
  const Cut cut = CutTasks(tiles, tile_bytes, x, pool.threads());

  std::array<Product, kMostLinearJobs> products;
  std::array<int64_t, kMostLinearJobs + 1> first_run = {};  // of each job's tiles
  for (size_t i = 0; i < jobs.size(); ++i) {
    products[i] = Product(isa, *jobs[i].weights, x);
    first_run[i + 1] = first_run[i] + TileRuns(cut, jobs[i].weights->tiles());
  }
  const int64_t runs = first_run[jobs.size()];
  // Tokens ascending, as in ForPieces.
  pool.ParallelFor(runs * GroupRuns(cut, x), [&](int64_t task, int) {
    const int64_t run = task % runs;
    size_t i = 0;
    while (run >= first_run[i + 1]) ++i;
    const Target target{.out = jobs[i].out,
                        .partial_columns = jobs[i].weights->columns(),
                        .stride = jobs[i].out_stride};
    products[i].Multiply(PieceOf(cut, jobs[i].weights->tiles(), x, run - first_run[i], task / runs),
                         target);
  });
}

namespace {

/// Both products of GatedLinear, piece by piece: take(token, row, gates, ups) gets neighbouring
/// rows of both, beginning at a multiple of 32, and may change them.
template <typename Take>
void GatedPieces(Isa isa, const GatedPair& weights, const Activations& x, ThreadPool& pool,
                 const Take& take) {
  const PackedMatrix& gate = weights.gate;
  const PackedMatrix& up = weights.up;
  if (gate.rows() == 0 || x.tokens() == 0) return;
  const Product gate_product(isa, gate, x);
  const Product up_product(isa, up, x);
  Cut cut = CutTasks(gate.tiles(), gate.tile_bytes() + up.tile_bytes(), x, pool.threads());
  // Whole blocks of what follows.
  constexpr int64_t kBlockTiles = kBlockColumns / kTileRows;
  cut.tiles_per_task = (cut.tiles_per_task + kBlockTiles - 1) / kBlockTiles * kBlockTiles;
  ForPieces(cut, gate.tiles(), x, pool, [&](const Piece& piece) {
    constexpr int64_t kTiles = TileKernels::kMostTiles;
    constexpr int64_t kRows = kTiles * kTileRows;
    const int64_t end = piece.tile + piece.tiles;
    for (int64_t tile = piece.tile; tile < end; tile += kTiles) {
      const int64_t row = tile * kTileRows;
      const int64_t tiles = std::min(kTiles, end - tile);
      const auto rows = static_cast<size_t>(std::min(tiles * kTileRows, gate.rows() - row));
      for (int64_t group = piece.group; group < piece.end_group; ++group) {
        alignas(64) float gates[kGroup * kRows];
        alignas(64) float ups[kGroup * kRows];
        const int64_t token = group * kGroup;
        Target target{.out = gates,
                      .partial_columns = x.columns(),
                      .stride = kRows,
                      .first_token = token,
                      .first_row = row};
        gate_product.MultiplyGroup(tile, tiles, group, target);
        target.out = ups;
        up_product.MultiplyGroup(tile, tiles, group, target);
        const int64_t tokens = std::min(kGroup, x.tokens() - token);
        for (int64_t t = 0; t < tokens; ++t) {
          const std::span<float> values(ups + t * kRows, rows);
          GatedActivation(isa, weights.kind, std::span<const float>(gates + t * kRows, rows),
                          values, values);
        }
        take(group, row, rows, ups, kRows);
      }
    }
  });
}

}  // namespace

void GatedLinear(Isa isa, const GatedPair& weights, const Activations& x, float* out,
                 int64_t out_stride, ThreadPool& pool) {
  GatedPieces(isa, weights, x, pool,
              [&](int64_t group, int64_t row, size_t rows, const float* values, int64_t stride) {
                const int64_t end = std::min((group + 1) * kGroup, x.tokens());
                for (int64_t token = group * kGroup; token < end; ++token, values += stride) {
                  std::copy_n(values, rows, out + token * out_stride + row);
                }
              });
}

void GatedLinear(Isa isa, const GatedPair& weights, const Activations& x, Activations& out,
                 ThreadPool& pool) {
  out.Reserve(x.tokens(), weights.gate.rows());
  GatedPieces(isa, weights, x, pool,
              [&](int64_t group, int64_t row, size_t rows, const float* values, int64_t stride) {
                out.QuantizePart(isa, group, row, static_cast<int64_t>(rows), values, stride);
              });
}

void LinearPartialSums(Isa isa, const PackedMatrix& weights, const Activations& x,
                       const PartialSumOutput& out, ThreadPool& pool) {
  if (weights.rows() == 0 || x.tokens() == 0) return;
  const Product product(isa, weights, x);
  const Target target{.partial_columns = out.partial_columns,
                      .sums = out.sums,
                      .stride = out.stride,
                      .failed = out.failed};
  const Cut cut = CutTasks(weights.tiles(), weights.tile_bytes(), x, pool.threads());
  std::fill_n(out.failed, x.tokens(), 0);
  ForPieces(cut, weights.tiles(), x, pool,
            [&](const Piece& piece) { product.Multiply(piece, target); });
}

float PartialSumToFloat(int64_t sum) { return static_cast<float>(sum) * (1.0F / kPartialSumScale); }

}  // namespace tandem::core
