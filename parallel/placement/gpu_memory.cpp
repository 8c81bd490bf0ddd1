#include "parallel/placement/gpu_memory.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "core/base/counted.h"
#include "core/cuda/gpu_needs.h"
#include "core/model/model.h"
#include "fmt/ranges.h"
#include "kv_store/pages/pool_size.h"
#include "parallel/sharding/model_costs.h"

namespace tandem::parallel {
namespace {

constexpr int64_t kWishedTokens = 8192;  // of a sequence, as SetUpRank has it
constexpr int64_t kMostDrafts = 16;

int64_t BytesOf(const core::KvGeometry& geometry, const std::vector<int64_t>& blocks) {
  int64_t bytes = 0;
  for (size_t g = 0; g < blocks.size(); ++g) bytes += blocks[g] * geometry.BlockBytes(g);
  return bytes;
}

/// What must fit, whatever can be had beyond it.
int64_t LeastTotal(const GpuMemory& memory, const GpuMemoryOptions& options) {
  const int64_t cache = options.kv_memory > 0 ? memory.cache : memory.least_cache;
  return memory.weights + cache + memory.workspace + kGpuReserve;
}

/// The smallest number of ranks above the plan's of which each fits into `each` bytes.
std::optional<int> RanksThatFit(const core::ModelFile& file, const ShardPlan& plan,
                                const GpuMemoryOptions& options, int64_t each) {
  const auto costs = CostsOf(file);
  if (!costs.ok()) return std::nullopt;
  const int most = LargestRankCount(file.config());
  for (int ranks = plan.ranks() + 1; ranks <= most; ++ranks) {
    const auto other = PlanShards(file.config(), *costs, {.ranks = ranks});
    if (!other.ok()) continue;
    const bool fits =
        std::all_of(other->shards.begin(), other->shards.end(), [&](const core::Shard& shard) {
          return LeastTotal(MemoryOnGpu(file, shard, options), options) <= each;
        });
    if (fits) return ranks;
  }
  return std::nullopt;
}

/// The largest format in which the weights leave room for the rest.
std::optional<std::string> FormatThatFits(const GpuMemory& memory, int64_t weights_room) {
  struct Format {
    const char* name;
    double bits;  // a weight
  };
  for (const Format& format :
       {Format{"Q8_0", 8.5}, Format{"Q6_K", 6.5625}, Format{"Q5_K", 5.5}, Format{"Q4_K", 4.5},
        Format{"Q3_K", 3.4375}, Format{"Q2_K", 2.625}}) {
    if (format.bits >= memory.bits_per_weight) continue;
    const double bytes = static_cast<double>(memory.weights) * format.bits / memory.bits_per_weight;
    if (bytes <= static_cast<double>(weights_room)) return format.name;
  }
  return std::nullopt;
}

}  // namespace

GpuMemory MemoryOnGpu(const core::ModelFile& file, const core::Shard& shard,
                      const GpuMemoryOptions& options) {
  const core::ModelConfig& config = file.config();
  const core::KvGeometry geometry{.groups = core::LayerGroups(config),
                                  .layers = config.layers,
                                  .kv_heads = static_cast<int>(shard.kv_heads.count),
                                  .head_dim = config.head_dim,
                                  .dtype = options.kv_dtype};
  const kv_store::PoolWish wish{.sequences = options.max_running,
                                .sequence_tokens = std::min<int64_t>(config.context, kWishedTokens),
                                .step_tokens = options.prefill_chunk};
  const std::vector<int64_t> wished = kv_store::BlocksForWish(geometry, wish);
  kv_store::PoolWish least = wish;
  least.sequences = 1;
  least.sequence_tokens = std::min<int64_t>(config.context, options.prefill_chunk);

  GpuMemory memory;
  memory.cache =
      options.kv_memory > 0
          ? BytesOf(geometry, kv_store::BlocksForBytes(geometry, wish, options.kv_memory))
          : BytesOf(geometry, wished);
  memory.spill =
      options.spill_memory.value_or(std::min(memory.cache / kSpilledShare, kMostSpilledBytes));
  memory.least_cache = BytesOf(geometry, kv_store::BlocksForWish(geometry, least));
  for (size_t g = 0; g < geometry.groups.size(); ++g) {
    if (!geometry.groups[g].leaves_behind())
      memory.token += geometry.BlockBytes(g) / core::kPageTokens;
  }
  const int64_t drafts = options.speculate ? kMostDrafts : 0;
  const int64_t tokens = options.prefill_chunk + options.max_running * (1 + drafts);
  const core::GpuNeeds needs =
      core::NeedsOfGpu(file, shard, options.activations,
                       {.tokens = tokens,
                        .logit_rows = tokens,  // a client may ask for those of its prompt
                        // Of tables, in which a block has its place after it was given back.
                        .blocks = wish.sequences * kv_store::BlocksFor(wish.sequence_tokens)},
                       options.exact);
  memory.weights = needs.weights;
  memory.workspace = needs.workspace;
  if (needs.elements > 0) {
    memory.bits_per_weight =
        8.0 * static_cast<double>(needs.weights) / static_cast<double>(needs.elements);
  }
  return memory;
}

absl::Status CheckGpuMemory(const core::ModelFile& file, const ShardPlan& plan, int rank,
                            const GpuMemoryOptions& options, const GpuRoom& room) {
  const GpuMemory memory = MemoryOnGpu(file, plan.shards[static_cast<size_t>(rank)], options);
  const int64_t each = room.free / std::max(1, room.sharers);
  const int64_t needed = LeastTotal(memory, options);
  if (needed <= each) return absl::OkStatus();
  std::vector<std::string> ways;
  if (const auto ranks = RanksThatFit(file, plan, options, each)) {
    ways.push_back(fmt::format("with -n {} on GPUs with as much free", *ranks));
  }
  const int64_t cache_room = each - memory.weights - memory.workspace - kGpuReserve;
  if (options.kv_memory > 0 && cache_room >= memory.least_cache) {
    ways.push_back(fmt::format("with --kv-memory {}MiB", cache_room >> 20));
  }
  const int64_t cache = options.kv_memory > 0 ? memory.cache : memory.least_cache;
  if (const auto format = FormatThatFits(memory, each - cache - memory.workspace - kGpuReserve)) {
    ways.push_back(fmt::format("with weights in {}", *format));
  }
  if (room.sharers > 1) ways.emplace_back("with a GPU for each rank");
  return ResourceExhausted(
      "--device cuda: {} of host {} has {} free{}, and rank {} needs {} (weights {}, KV cache {}, "
      "a "
      "step {}, reserve {}): {} are missing; {}{}",
      room.gpu, room.host, SizeText(room.free),
      room.sharers > 1 ? fmt::format(" for {} ranks", room.sharers) : "", rank, SizeText(needed),
      SizeText(memory.weights), SizeText(cache), SizeText(memory.workspace), SizeText(kGpuReserve),
      SizeText(needed - each),
      ways.empty() ? "no number of ranks and no smaller format would fit" : "it would fit ",
      fmt::join(ways, ", or "));
}

}  // namespace tandem::parallel
