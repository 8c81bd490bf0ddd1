#include "parallel/coordinator/rank_setup.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "kv_store/pages/pool_size.h"
#include "parallel/communicators/agree_on_status.h"
#include "parallel/placement/gpu_memory.h"
#include "parallel/sharding/shard_plan.h"

namespace tandem::parallel {
namespace {

constexpr size_t kMostGroups = 8;

/// What every rank tells the others, as it lies in memory: all ranks run the same build.
struct Introduction {
  // Must be equal on all ranks.
  int64_t vocab;
  int64_t context;
  int64_t groups;
  int64_t max_running;
  int64_t prefill_chunk;
  int64_t kv_dtype;
  int64_t fingerprint;  // of records: its beginning
  uint64_t epoch;
  // Each rank's own.
  int64_t vocab_begin;
  int64_t vocab_count;
  int64_t kv_heads_begin;
  int64_t kv_heads_count;
  int64_t has_tier;
  int64_t copies_beside;
  int64_t weight_bytes;
  int64_t weights_mapped;
  int64_t blocks[kMostGroups];
  int64_t host_blocks[kMostGroups];
  char device[64];
};

struct Shared {
  const char* name;
  int64_t Introduction::*field;
};
constexpr Shared kShared[] = {{"vocabulary", &Introduction::vocab},
                              {"context", &Introduction::context},
                              {"number of layer groups", &Introduction::groups},
                              {"number of running requests", &Introduction::max_running},
                              {"prefill chunk", &Introduction::prefill_chunk},
                              {"KV dtype", &Introduction::kv_dtype},
                              {"fingerprint of KV records", &Introduction::fingerprint}};

/// A share of the memory that is free on the rank's device, of which each rank there takes its
/// part: the cache should never push weights or other programs out.
absl::StatusOr<int64_t> KvMemoryShare(const RankOptions& options, const Communicator& world,
                                      const core::DeviceMemory& memory) {
  TANDEM_ASSIGN_OR_RETURN(const int64_t available, memory.AvailableBytes());
  const int sharers = options.memory_sharers > 0 ? options.memory_sharers : world.local_size();
  const auto each = static_cast<int64_t>(static_cast<double>(available) * options.memory_share) /
                    std::max(1, sharers);
  return std::max<int64_t>(1, each - options.memory_kept);
}

int64_t Beginning(const kv_store::Fingerprint& fingerprint) {
  int64_t beginning = 0;
  std::memcpy(&beginning, fingerprint.data(), sizeof(beginning));
  return beginning;
}

absl::Status CheckOptions(const RankOptions& options, const core::ModelConfig& config,
                          const core::KvGeometry& geometry) {
  const size_t groups = geometry.groups.size();
  if (options.max_running < 1 || options.max_running > 4096) {
    return InvalidArgument("running requests: {}, expected 1 to 4096", options.max_running);
  }
  if (options.prefill_chunk < 1 || options.prefill_chunk > (1 << 20)) {
    return InvalidArgument("prefill chunk: {} tokens, expected 1 to {}", options.prefill_chunk,
                           1 << 20);
  }
  if (options.max_waiting < 0 || options.kv_memory < 0 || options.spill_memory.value_or(0) < 0) {
    return InvalidArgument("queue length and KV memory must not be negative");
  }
  if (options.records.save_bytes < 0 || options.records.fetch_bytes < 0) {
    return InvalidArgument("bytes of KV records under way must not be negative");
  }
  if (groups < 1 || groups > kMostGroups) {
    return Unimplemented("{}: {} kinds of attention layers, at most {} are supported", config.name,
                         groups, kMostGroups);
  }
  if (options.kv_memory > 0) return kv_store::CheckPoolBytes(geometry, options.kv_memory);
  return absl::OkStatus();
}

/// The blocks of this rank: what was asked for in bytes, or the whole wish as far as memory allows.
absl::StatusOr<std::vector<int64_t>> ChooseBlocks(const RankOptions& options,
                                                  const Communicator& world, core::Model& model,
                                                  const core::KvGeometry& geometry) {
  const core::ModelConfig& config = model.config();
  const int32_t longest =
      options.kv_sequence_tokens > 0 ? options.kv_sequence_tokens : std::min(config.context, 8192);
  const kv_store::PoolWish wish{.sequences = options.max_running,
                                .sequence_tokens = longest,
                                .step_tokens = options.prefill_chunk};
  int64_t bytes = options.kv_memory;
  if (bytes == 0) {
    TANDEM_ASSIGN_OR_RETURN(bytes, KvMemoryShare(options, world, model.memory()));
  }
  std::vector<int64_t> blocks = kv_store::BlocksForBytes(geometry, wish, bytes);
  if (options.kv_memory == 0) {
    const std::vector<int64_t> wished = kv_store::BlocksForWish(geometry, wish);
    for (size_t g = 0; g < blocks.size(); ++g) blocks[g] = std::min(blocks[g], wished[g]);
  }
  return blocks;
}

/// Blocks of this rank's host tier beside a pool of so many. [layer groups]
absl::StatusOr<std::vector<int64_t>> ChooseHostBlocks(const RankOptions& options,
                                                      const Communicator& world, core::Model& model,
                                                      const core::KvGeometry& geometry,
                                                      const std::vector<int64_t>& pool) {
  int64_t pool_bytes = 0;
  for (size_t g = 0; g < pool.size(); ++g) pool_bytes += pool[g] * geometry.BlockBytes(g);
  int64_t bytes = 0;
  if (options.spill_memory) {
    bytes = *options.spill_memory;
  } else if (model.memory().copies_beside()) {
    TANDEM_ASSIGN_OR_RETURN(const int64_t available, model.memory().host().AvailableBytes());
    bytes = std::min({pool_bytes / kSpilledShare, kMostSpilledBytes,
                      available / 8 / std::max(1, world.local_size())});
  }
  // In the proportion of the pool's groups: a sequence takes of each what it needs there.
  std::vector<int64_t> blocks;
  blocks.reserve(pool.size());
  const double share =
      static_cast<double>(bytes) / static_cast<double>(std::max<int64_t>(1, pool_bytes));
  for (const int64_t of_pool : pool) {
    blocks.push_back(static_cast<int64_t>(static_cast<double>(of_pool) * share));
  }
  return blocks;
}

absl::StatusOr<std::vector<Introduction>> Introduce(Communicator& world, const Introduction& mine) {
  std::vector<Introduction> all(static_cast<size_t>(world.size()));
  TANDEM_RETURN_IF_ERROR(world.AllGather(std::as_bytes(std::span(&mine, 1)),
                                         std::as_writable_bytes(std::span(all)), {}));
  int64_t next_row = 0;
  for (int rank = 0; rank < world.size(); ++rank) {
    const Introduction& other = all[static_cast<size_t>(rank)];
    for (const Shared& shared : kShared) {
      if (other.*shared.field != all[0].*shared.field) {
        return FailedPrecondition(
            "{} has another {} than rank 0: {}, expected {}; start all ranks alike",
            RankOnHost(world, rank), shared.name, other.*shared.field, all[0].*shared.field);
      }
    }
    if (other.epoch != all[0].epoch) {
      return FailedPrecondition("{} belongs to epoch {}, expected {}; it is of another start",
                                RankOnHost(world, rank), other.epoch, all[0].epoch);
    }
    if (other.vocab_count > 0 && other.vocab_begin != next_row) {
      return FailedPrecondition("{} holds vocabulary rows from {}, expected {}",
                                RankOnHost(world, rank), other.vocab_begin, next_row);
    }
    next_row += other.vocab_count;
  }
  if (next_row != all[0].vocab) {
    return FailedPrecondition("the ranks hold {} vocabulary rows, the model has {}", next_row,
                              all[0].vocab);
  }
  return all;
}

}  // namespace

absl::StatusOr<RankSetup> SetUpRank(const RankOptions& options, Communicator& world,
                                    core::Model& model) {
  const core::ModelConfig& config = model.config();
  const core::KvGeometry geometry{.groups = core::LayerGroups(config),
                                  .layers = config.layers,
                                  .kv_heads = static_cast<int>(model.shard().kv_heads.count),
                                  .head_dim = config.head_dim,
                                  .dtype = options.kv_dtype};
  TANDEM_RETURN_IF_ERROR(AgreeOnStatus(world, CheckOptions(options, config, geometry)));
  const auto chosen = ChooseBlocks(options, world, model, geometry);
  TANDEM_RETURN_IF_ERROR(AgreeOnStatus(world, chosen.status()));
  const std::vector<int64_t>& my_blocks = *chosen;
  const auto my_host_blocks = ChooseHostBlocks(options, world, model, geometry, my_blocks);
  TANDEM_RETURN_IF_ERROR(AgreeOnStatus(world, my_host_blocks.status()));

  Introduction mine{.vocab = config.vocab,
                    .context = config.context,
                    .groups = static_cast<int64_t>(geometry.groups.size()),
                    .max_running = options.max_running,
                    .prefill_chunk = options.prefill_chunk,
                    .kv_dtype = static_cast<int64_t>(options.kv_dtype),
                    .fingerprint = Beginning(options.records.fingerprint),
                    .epoch = options.epoch,
                    .vocab_begin = model.shard().vocab_rows.begin,
                    .vocab_count = model.shard().vocab_rows.count,
                    .kv_heads_begin = model.shard().kv_heads.begin,
                    .kv_heads_count = model.shard().kv_heads.count,
                    .has_tier = options.records.tier != nullptr ? 1 : 0,
                    .copies_beside = model.memory().copies_beside() ? 1 : 0,
                    .weight_bytes = model.weight_bytes(),
                    .weights_mapped = options.weights_mapped ? 1 : 0,
                    .blocks = {},
                    .host_blocks = {},
                    .device = {}};
  std::copy(my_blocks.begin(), my_blocks.end(), mine.blocks);
  std::copy(my_host_blocks->begin(), my_host_blocks->end(), mine.host_blocks);
  std::memcpy(mine.device, options.device.data(),
              std::min(options.device.size(), sizeof(mine.device) - 1));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Introduction> all, Introduce(world, mine));

  RankSetup setup;
  std::vector<core::Range> vocab_shards;
  std::vector<core::Shard> shards(static_cast<size_t>(world.size()));  // KV heads alone
  bool tiers = true;
  bool beside = true;
  int64_t most_kv_heads = 0;
  std::vector<int64_t> blocks = my_blocks;
  std::vector<int64_t> host_blocks = *my_host_blocks;
  int64_t largest_shard = 0;
  for (int rank = 0; rank < world.size(); ++rank) {
    const Introduction& other = all[static_cast<size_t>(rank)];
    setup.ranks.push_back({.rank = rank,
                           .host = world.hosts()[static_cast<size_t>(rank)],
                           .weight_bytes = other.weight_bytes,
                           .weights_mapped = other.weights_mapped != 0,
                           .device = other.device});
    vocab_shards.push_back({.begin = other.vocab_begin, .count = other.vocab_count});
    core::Range& kv_heads = shards[static_cast<size_t>(rank)].kv_heads;
    kv_heads = {.begin = other.kv_heads_begin, .count = other.kv_heads_count};
    most_kv_heads = std::max(most_kv_heads, kv_heads.count);
    tiers = tiers && other.has_tier != 0;
    beside = beside && other.copies_beside != 0;
    largest_shard = std::max(largest_shard, other.vocab_count);
    for (size_t g = 0; g < blocks.size(); ++g) {
      blocks[g] = std::min(blocks[g], other.blocks[g]);
      host_blocks[g] = std::min(host_blocks[g], other.host_blocks[g]);
    }
  }

  absl::StatusOr<kv_store::PagePool> pool =
      kv_store::PagePool::Create(model.memory(), geometry, blocks);
  if (absl::IsResourceExhausted(pool.status())) {
    pool = ResourceExhausted("{}; give less with --kv-memory", Message(pool.status()));
  }
  TANDEM_RETURN_IF_ERROR(AgreeOnStatus(world, pool.status()));
  setup.pool = std::make_unique<kv_store::PagePool>(std::move(pool).value());
  setup.scheduler = {.vocab = config.vocab,
                     .largest_vocab_shard = static_cast<int32_t>(largest_shard),
                     .context = static_cast<int32_t>(kv_store::LongestSequence(
                         geometry.groups, blocks, options.prefill_chunk, config.context)),
                     .groups = geometry.groups,
                     .blocks = blocks,
                     .max_running = options.max_running,
                     .prefill_chunk = options.prefill_chunk,
                     .epoch = options.epoch};
  setup.scheduler.loads_beside = beside;
  setup.traffic = std::make_unique<PageTraffic>();
  // Of every group a block at least, or none: a sequence needs them all.
  if (std::all_of(host_blocks.begin(), host_blocks.end(), [](int64_t b) { return b > 0; })) {
    auto spilled = SpilledPages::Create(*setup.pool, host_blocks, *setup.traffic);
    TANDEM_RETURN_IF_ERROR(AgreeOnStatus(world, spilled.status()));
    setup.spilled = *std::move(spilled);
    setup.scheduler.host_blocks = host_blocks;
    for (size_t g = 0; g < geometry.groups.size(); ++g) {
      setup.scheduler.host_block_bytes.push_back(
          geometry.PageBytes() * most_kv_heads *
          static_cast<int64_t>(geometry.groups[g].layers.size()));
    }
  }
  if (tiers) {
    SchedulerOptions& scheduler = setup.scheduler;
    scheduler.records = true;
    scheduler.fetch_bytes = options.records.fetch_bytes;
    for (size_t g = 0; g < geometry.groups.size(); ++g) {
      scheduler.block_bytes.push_back(most_kv_heads * kv_store::RecordBytes(geometry,
                                                                            static_cast<int32_t>(g),
                                                                            core::kPageTokens));
    }
    auto records = RankRecords::Create({.records = options.records,
                                        .rank = world.rank(),
                                        .kv_heads = model.shard().kv_heads,
                                        .records_own = RecordedKvHeads(shards, world.rank())},
                                       *setup.pool, *setup.traffic);
    TANDEM_RETURN_IF_ERROR(AgreeOnStatus(world, records.status()));
    setup.records = *std::move(records);
  }
  setup.runner = std::make_unique<RankRunner>(
      RankRunner::Parts{.model = model,
                        .pool = *setup.pool,
                        .collective = world,
                        .slots = SlotTable(options.max_running, geometry.groups, blocks,
                                           config.vocab, setup.scheduler.host_blocks),
                        .vocab_shards = std::move(vocab_shards),
                        .traffic = *setup.traffic,
                        .records = setup.records.get(),
                        .spilled = setup.spilled.get(),
                        .phases = options.phases});
  return setup;
}

}  // namespace tandem::parallel
