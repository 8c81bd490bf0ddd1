#include "core/linear.h"

#include <algorithm>
#include <atomic>
#include <bit>

#include "core/linear_kernel.h"

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

/// How a product is cut into tasks: runs of tiles times runs of token groups. Sums are never cut.
struct Cut {
  int64_t tiles_per_task = 1;
  int64_t groups_per_task = 1;
  int64_t tile_runs = 0;
  int64_t group_runs = 0;
};

Cut CutTasks(const PackedMatrix& weights, int64_t groups, int threads) {
  // A task's activations should stay in a second-level cache while tiles stream past them.
  constexpr int64_t kCacheBytes = 384 * 1024;
  // Handing out a task costs about as much as reading this much.
  constexpr int64_t kTaskBytes = 16 * 1024;
  constexpr int64_t kTasksPerThread = 8;
  Cut cut;
  cut.groups_per_task = std::clamp<int64_t>(
      kCacheBytes / (kGroup * std::max<int64_t>(weights.columns(), 1)), 1, groups);
  cut.group_runs = (groups + cut.groups_per_task - 1) / cut.groups_per_task;
  const int64_t worth_it =
      kTaskBytes / std::max<int64_t>(weights.tile_bytes() * cut.groups_per_task, 1);
  const int64_t even = weights.tiles() / (threads * kTasksPerThread);
  cut.tiles_per_task = threads == 1 ? weights.tiles() : std::max<int64_t>({even, worth_it, 1});
  cut.tile_runs = (weights.tiles() + cut.tiles_per_task - 1) / cut.tiles_per_task;
  return cut;
}

/// Where a product goes: floats, or sums of leaves.
struct Target {
  int64_t leaf_columns = 0;
  int64_t stride = 0;  // elements from token to token
  float* out = nullptr;
  int64_t* sums = nullptr;
  int64_t* failed = nullptr;
};

/// The product as tasks for a pool.
class Product {
 public:
  Product(Isa isa, const PackedMatrix& weights, const Activations& x, const Target& target,
          int threads)
      : weights_(weights),
        x_(x),
        target_(target),
        kernels_(KernelsFor(isa, weights.dtype())),
        cut_(CutTasks(weights, x.groups(), threads)) {}

  int64_t tasks() const { return cut_.tile_runs * cut_.group_runs; }

  void RunTask(int64_t task) const {
    const int64_t first_group = task / cut_.tile_runs * cut_.groups_per_task;
    const int64_t end_group = std::min(first_group + cut_.groups_per_task, x_.groups());
    const int64_t first_tile = task % cut_.tile_runs * cut_.tiles_per_task;
    const int64_t end_tile = std::min(first_tile + cut_.tiles_per_task, weights_.tiles());
    // A few tiles at a time, so that they stay in the first-level cache for all tokens.
    for (int64_t tile = first_tile; tile < end_tile; tile += TileKernels::kMostTiles) {
      const int64_t tiles = std::min<int64_t>(end_tile - tile, TileKernels::kMostTiles);
      for (int64_t group = first_group; group < end_group; ++group) {
        const int64_t token = group * kGroup;
        MultiplyPart(tile, tiles, token, std::min(kGroup, x_.tokens() - token));
      }
    }
  }

 private:
  /// Some tiles with some tokens of one group, by the kernels that fit. Which ones does not change
  /// the bits.
  void MultiplyPart(int64_t tile, int64_t tiles, int64_t token, int64_t tokens) const {
    while (tokens > 0) {
      const TileKernel& kernel = Choose(tiles, tokens);
      const int64_t whole = tiles / kernel.tiles * kernel.tiles;
      for (int64_t first = 0; first < whole; first += kernel.tiles) {
        Run(kernel, tile + first, token);
      }
      if (whole < tiles) MultiplyPart(tile + whole, tiles - whole, token, kernel.tokens);
      token += kernel.tokens;
      tokens -= kernel.tokens;
    }
  }

  void Run(const TileKernel& kernel, int64_t tile, int64_t token) const {
    TileWork work = Work(tile, token);
    const int64_t row = tile * kTileRows;
    const int64_t rows = std::min<int64_t>(kernel.tiles * kTileRows, weights_.rows() - row);
    if (target_.sums == nullptr) {
      RunInto(kernel, work, target_.out + token * target_.stride + row, rows, work.out);
      return;
    }
    uint32_t failed[TileKernels::kMostTiles * TileKernels::kMostTokens];
    std::fill_n(failed, kernel.tiles * kernel.tokens, 0);
    work.failed_rows = failed;
    RunInto(kernel, work, target_.sums + token * target_.stride + row, rows, work.leaf_sums);
    for (int64_t t = 0; t < kernel.tokens; ++t) {
      int64_t count = 0;
      for (int64_t first = 0; first < rows; first += kTileRows) {
        // Rows past the last one do not count.
        const uint32_t present = (1U << std::min<int64_t>(rows - first, kTileRows)) - 1;
        count += std::popcount(failed[first / kTileRows * kernel.tokens + t] & present);
      }
      if (count == 0) continue;
      std::atomic_ref<int64_t>(target_.failed[token + t])
          .fetch_add(count, std::memory_order_relaxed);
    }
  }

  /// Runs the kernel with its output at `target` (`output` is where `work` says so), by way of a
  /// buffer where the kernel's tiles have more rows than there are.
  template <typename Element>
  void RunInto(const TileKernel& kernel, TileWork& work, Element* target, int64_t rows,
               Element*& output) const {
    const int64_t kernel_rows = int64_t{kernel.tiles} * kTileRows;
    if (rows == kernel_rows) {
      work.out_stride = target_.stride;
      output = target;
      kernel.run(work);
      return;
    }
    alignas(64) Element buffer[TileKernels::kMostTiles * TileKernels::kMostTokens * kTileRows];
    std::fill_n(buffer, kernel_rows * kernel.tokens, Element{});
    work.out_stride = kernel_rows;
    output = buffer;
    kernel.run(work);
    for (int64_t t = 0; t < kernel.tokens; ++t) {
      for (int64_t r = 0; r < rows; ++r) {
        Element& to = target[t * target_.stride + r];
        to = buffer[t * kernel_rows + r] + (work.leaf_sums == nullptr ? Element{} : to);
      }
    }
  }

  /// The first kernel that is not too large.
  const TileKernel& Choose(int64_t tiles, int64_t tokens) const {
    const TileKernel* kernel = kernels_.kernels;
    while (kernel->tiles > tiles || kernel->tokens > tokens) ++kernel;
    return *kernel;
  }

  TileWork Work(int64_t tile, int64_t token) const {
    TileWork work;
    work.tile = weights_.tile(tile);
    work.tile_stride = weights_.tile_bytes();
    work.columns = weights_.columns();
    work.first_block = weights_.first_block();
    work.leaf_columns = target_.leaf_columns;
    if (!weights_.quantized()) {
      work.x = x_.row(token);
      work.x_stride = x_.stride();
      return work;
    }
    const Activations::Group group = x_.group(token / kGroup);
    const int64_t in_group = token % kGroup;
    work.group_tokens = group.tokens;
    work.codes = group.codes + in_group * kBlockColumns;
    work.scales = group.scales + in_group;
    work.negative_sums = group.negative_sums + in_group;
    work.float_sums = group.float_sums + in_group;
    return work;
  }

  const PackedMatrix& weights_;
  const Activations& x_;
  const Target& target_;
  TileKernels kernels_;
  Cut cut_;
};

void Multiply(Isa isa, const PackedMatrix& weights, const Activations& x, const Target& target,
              ThreadPool& pool) {
  if (weights.rows() == 0 || x.tokens() == 0) return;
  const Product product(isa, weights, x, target, pool.threads());
  pool.ParallelFor(product.tasks(), [&](int64_t task, int) { product.RunTask(task); });
}

}  // namespace

void Linear(Isa isa, const PackedMatrix& weights, const Activations& x, float* out,
            int64_t out_stride, ThreadPool& pool) {
  Multiply(isa, weights, x, {.leaf_columns = weights.columns(), .stride = out_stride, .out = out},
           pool);
}

void LinearLeaves(Isa isa, const PackedMatrix& weights, const Activations& x, int64_t leaf_columns,
                  int64_t* sums, int64_t sums_stride, int64_t* failed, ThreadPool& pool) {
  Multiply(isa, weights, x,
           {.leaf_columns = leaf_columns, .stride = sums_stride, .sums = sums, .failed = failed},
           pool);
}

float LeafSumToFloat(int64_t sum) { return static_cast<float>(sum) * (1.0F / kLeafScale); }

}  // namespace tandem::core
