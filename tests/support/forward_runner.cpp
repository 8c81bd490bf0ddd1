#include "tests/support/forward_runner.h"

#include <algorithm>
#include <thread>

#include "core/transformer/transformer.h"
#include "parallel/communicators/thread_communicator.h"
#include "parallel/links/linked_communicator.h"
#include "parallel/sharding/shard_plan.h"

namespace tandem::testing {
namespace {

using core::BlockId;

/// A pool whose unwritten bytes are NaN in any dtype, for two sequences whose blocks alternate.
class Cache {
 public:
  Cache(const core::ModelConfig& config, const core::Shard& shard, core::KvDtype dtype,
        int64_t positions, core::DeviceMemory& memory) {
    core::KvGeometry geometry;
    geometry.groups = core::LayerGroups(config);
    geometry.layers = config.layers;
    geometry.kv_heads = static_cast<int>(shard.kv_heads.count);
    geometry.head_dim = config.head_dim;
    geometry.dtype = dtype;
    const auto blocks =
        static_cast<BlockId>((positions + core::kPageTokens - 1) / core::kPageTokens);
    std::vector<core::KvView::LayerPlace> places(static_cast<size_t>(config.layers));
    memory_.resize(geometry.groups.size());
    for (size_t g = 0; g < geometry.groups.size(); ++g) {
      const int64_t stride = geometry.BlockBytes(g);
      std::vector<std::byte> unset(static_cast<size_t>(2 * blocks * stride), std::byte{0xff});
      memory_[g] = memory.Allocate(2 * blocks * stride);
      const core::CopyRun run{memory_[g].get(), unset.data(), unset.size()};
      core::ThrowDeviceFailure(memory.CopyFromHost({&run, 1}));
      for (size_t i = 0; i < geometry.groups[g].layers.size(); ++i) {
        const auto layer = static_cast<size_t>(geometry.groups[g].layers[i]);
        places[layer] = {
            memory_[g].get() + static_cast<int64_t>(i) * geometry.PageBytes() * geometry.kv_heads,
            stride, static_cast<int>(g)};
      }
    }
    for (size_t g = 0; g < geometry.groups.size(); ++g) {
      for (std::vector<std::vector<BlockId>>& tables : tables_) tables.emplace_back();
      for (BlockId b = 0; b < blocks; ++b) {
        const BlockId first = g % 2 == 0 ? blocks - 1 - b : b;
        tables_[0][g].push_back(2 * first);
        tables_[1][g].push_back(2 * (blocks - 1 - first) + 1);
      }
    }
    view_ = core::KvView(geometry, places);
  }

  const core::KvView& view() const { return view_; }
  /// The tables of sequence 0 or 1.
  std::vector<std::span<const BlockId>> tables(size_t sequence) const {
    return {tables_[sequence].begin(), tables_[sequence].end()};
  }

 private:
  std::vector<std::shared_ptr<std::byte>> memory_;
  std::vector<std::vector<BlockId>> tables_[2];  // [groups][blocks]
  core::KvView view_;
};

absl::StatusOr<std::unique_ptr<core::Operations>> MakeOperations(const core::ModelConfig& config,
                                                                 const core::Shard& shard,
                                                                 const ForwardOptions& options) {
  if (options.device) return options.device(config, shard);
  const core::CpuOptions cpu{
      .isa = options.isa, .activations = options.activations, .threads = options.threads};
  return std::make_unique<core::CpuOperations>(config, shard, cpu);
}

absl::Status RunRank(const core::ModelFile& file, std::span<const int32_t> tokens,
                     const ForwardOptions& options, const core::Shard& shard,
                     parallel::Communicator& hosts, ForwardResult& result) {
  TANDEM_ASSIGN_OR_RETURN(const auto operations, MakeOperations(file.config(), shard, options));
  parallel::LinkedWorld linked;
  if (options.linker || options.peer_linker) {
    parallel::LinkWish wish{.device = *operations, .floats = options.floats};
    if (options.linker) wish.linker = options.linker();
    if (options.peer_linker) wish.peer_linker = options.peer_linker();
    TANDEM_ASSIGN_OR_RETURN(linked, parallel::LinkDevices(hosts, wish));
    if (linked.world == nullptr) return Internal("{}", linked.problem);
  }
  parallel::Communicator& world = linked.world == nullptr ? hosts : *linked.world;
  TANDEM_ASSIGN_OR_RETURN(const auto model,
                          core::Transformer::Load(file, shard, *operations, nullptr));
  const auto total = static_cast<int>(tokens.size());
  const Cache cache(file.config(), shard, options.kv_dtype, total, operations->memory());
  std::vector<int> chunks = options.chunks;
  if (chunks.empty()) chunks = {total};

  int position = 0;
  size_t neighbour_done = 0;
  const int64_t vocab = file.config().vocab;
  for (size_t step = 0; position < total; ++step) {
    const int count = std::min(chunks[std::min(step, chunks.size() - 1)], total - position);
    std::vector<int32_t> ids;
    std::vector<core::SequenceSlice> slices;
    if (neighbour_done < options.neighbour.size()) {
      const size_t n = std::min<size_t>(step % 3 + 1, options.neighbour.size() - neighbour_done);
      slices.push_back(
          {0, static_cast<int32_t>(n), static_cast<int32_t>(neighbour_done), cache.tables(1)});
      ids.insert(ids.end(), options.neighbour.begin() + static_cast<int64_t>(neighbour_done),
                 options.neighbour.begin() + static_cast<int64_t>(neighbour_done + n));
      neighbour_done += n;
    }
    const auto first = static_cast<int32_t>(ids.size());
    slices.push_back({first, count, position, cache.tables(0)});
    const auto begin = tokens.begin() + position;
    ids.insert(ids.end(), begin, begin + count);
    std::vector<int32_t> wanted;
    for (int32_t i = 0; i < count; ++i) wanted.push_back(first + i);

    TANDEM_RETURN_IF_ERROR(
        model->Forward({.step = step, .tokens = ids, .sequences = slices, .logit_tokens = wanted},
                       cache.view(), world));
    TANDEM_RETURN_IF_ERROR(model->ReadLogits(
        {0, count}, result.logits.data() + position * vocab + shard.vocab_rows.begin, vocab));
    TANDEM_ASSIGN_OR_RETURN(const auto failed, model->TokenFailures());
    if (world.rank() == 0) {
      std::copy_n(failed.begin() + first, count, result.token_failed.begin() + position);
    }
    position += count;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ForwardResult> RunForward(const core::ModelFile& file,
                                         std::span<const int32_t> tokens,
                                         const ForwardOptions& options) {
  parallel::ModelCosts costs{.query_head = 3, .kv_head = 2, .ffn_column = 3, .vocab_row = 1};
  TANDEM_ASSIGN_OR_RETURN(
      const parallel::ShardPlan plan,
      parallel::PlanShards(file.config(), costs,
                           {.ranks = options.ranks, .weights = options.weights}));
  ForwardResult result;
  result.logits.resize(tokens.size() * static_cast<size_t>(file.config().vocab));
  result.token_failed.resize(tokens.size());

  auto worlds = parallel::MakeThreadWorld(options.ranks);
  std::vector<absl::Status> statuses(worlds.size());
  std::vector<std::thread> threads;
  for (size_t r = 0; r < worlds.size(); ++r) {
    threads.emplace_back([&, r] {
      statuses[r] = core::WithDeviceFailures(
          [&] { return RunRank(file, tokens, options, plan.shards[r], *worlds[r], result); });
      worlds[r].reset();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const absl::Status& status : statuses) TANDEM_RETURN_IF_ERROR(status);
  return result;
}

std::string Describe(const ForwardOptions& options) {
  return fmt::format("{} ranks, {} threads, {}, {} chunks{}", options.ranks, options.threads,
                     core::IsaName(options.isa), options.chunks.size(),
                     options.neighbour.empty() ? "" : ", with a neighbour");
}

}  // namespace tandem::testing
