#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/base/counted.h"
#include "core/formats/model_file.h"
#include "core/system/standard_output.h"
#include "launcher/commands/commands.h"
#include "launcher/commands/json_output.h"
#include "launcher/options/model_choices.h"
#include "parallel/placement/gpu_memory.h"
#include "parallel/sharding/model_costs.h"
#include "parallel/sharding/shard_plan.h"
#include "parallel/sharding/shard_plan_text.h"

namespace tandem::launcher {
namespace {

using nlohmann::ordered_json;

ordered_json RangeJson(const core::Range& range) {
  return {{"begin", range.begin}, {"count", range.count}};
}

ordered_json PhaseJson(const parallel::PhaseTime& phase) {
  return {{"slowest_rank", phase.slowest_rank},
          {"slowest", phase.slowest},
          {"ideal", phase.ideal},
          {"over_ideal", phase.ideal > 0 ? phase.slowest / phase.ideal - 1 : 0.0}};
}

int RanksOf(const PlanCommandOptions& options) {
  if (options.ranks > 0) return options.ranks;
  const size_t named = std::max(options.weights.size(), options.memory.size());
  return static_cast<int>(std::max<size_t>(named, 1));
}

/// What each rank needs on a GPU; none for a CPU. [ranks]
std::vector<parallel::GpuMemory> OnGpus(const PlanCommandOptions& options,
                                        const ModelChoices& choices, const core::ModelFile& file,
                                        const parallel::ShardPlan& plan) {
  std::vector<parallel::GpuMemory> all;
  if (choices.device != core::DeviceKind::kCuda) return all;
  for (const core::Shard& shard : plan.shards) {
    all.push_back(parallel::MemoryOnGpu(file, shard,
                                        {.activations = choices.activations,
                                         .kv_dtype = choices.kv_dtype,
                                         .spill_memory = options.model.kv_spill_memory,
                                         .kv_memory = options.model.kv_memory.value_or(0),
                                         .max_running = options.model.max_running,
                                         .prefill_chunk = options.model.prefill_chunk,
                                         .speculate = options.model.speculate,
                                         .exact = choices.exact}));
  }
  return all;
}

std::string GpuTable(const std::vector<parallel::GpuMemory>& gpus) {
  std::string text = fmt::format(
      "\nMemory of each rank's GPU:\n{:>4}  {:>11}  {:>11}  {:>11}  {:>11}"
      "  {:>11}  {:>11}\n",
      "rank", "weights", "KV cache", "step", "reserve", "all", "host tier");
  for (size_t rank = 0; rank < gpus.size(); ++rank) {
    const parallel::GpuMemory& gpu = gpus[rank];
    text +=
        fmt::format("{:>4}  {:>11}  {:>11}  {:>11}  {:>11}  {:>11}  {:>11}\n", rank,
                    SizeText(gpu.weights), SizeText(gpu.cache), SizeText(gpu.workspace),
                    SizeText(parallel::kGpuReserve), SizeText(gpu.total()), SizeText(gpu.spill));
  }
  return text;
}

ordered_json GpuJson(const parallel::GpuMemory& gpu) {
  return {{"weights", gpu.weights},
          {"kv_cache", gpu.cache},
          {"kv_token", gpu.token},
          {"step", gpu.workspace},
          {"reserve", parallel::kGpuReserve},
          {"total", gpu.total()},
          {"host_tier", gpu.spill}};
}

ordered_json PlanJson(const std::string& model, const core::ModelConfig& config,
                      const parallel::ShardPlan& plan,
                      const std::vector<parallel::GpuMemory>& gpus) {
  ordered_json ranks = ordered_json::array();
  for (int r = 0; r < plan.ranks(); ++r) {
    const auto i = static_cast<size_t>(r);
    const core::Shard& shard = plan.shards[i];
    const parallel::RankBytes& bytes = plan.bytes[i];
    ranks.push_back({{"rank", r},
                     {"weight", plan.weights[i]},
                     {"query_heads", RangeJson(shard.query_heads)},
                     {"kv_heads", RangeJson(shard.kv_heads)},
                     {"recorded_kv_heads", RangeJson(parallel::RecordedKvHeads(plan.shards, r))},
                     {"ffn_columns", RangeJson(shard.ffn_columns)},
                     {"vocab_rows", RangeJson(shard.vocab_rows)},
                     {"bytes",
                      {{"attention", static_cast<int64_t>(bytes.attention)},
                       {"feed_forward", static_cast<int64_t>(bytes.feed_forward)},
                       {"vocabulary", static_cast<int64_t>(bytes.vocabulary)},
                       {"every_rank", static_cast<int64_t>(bytes.every_rank)},
                       {"total", static_cast<int64_t>(bytes.total())}}}});
    if (!gpus.empty()) ranks.back()["gpu_bytes"] = GpuJson(gpus[i]);
  }
  return {{"model", model},
          {"family", core::FamilyName(config.family)},
          {"query_heads", config.heads},
          {"kv_heads", config.kv_heads},
          {"head_dim", config.head_dim},
          {"ffn_columns", config.ffn_dim},
          {"vocab_rows", config.vocab},
          {"ranks", ranks},
          {"phases",
           {{"attention", PhaseJson(plan.attention)},
            {"feed_forward", PhaseJson(plan.feed_forward)},
            {"vocabulary", PhaseJson(plan.vocabulary)}}},
          {"time_over_ideal", plan.time_over_ideal()},
          {"layer_time_over_ideal", plan.layer_time_over_ideal()}};
}

}  // namespace

absl::Status Plan(const PlanCommandOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(const ModelChoices choices, ModelChoices::From(options.model));
  TANDEM_ASSIGN_OR_RETURN(const auto file, OpenModel(options.model, choices));
  TANDEM_ASSIGN_OR_RETURN(const parallel::ModelCosts costs, parallel::CostsOf(*file));
  TANDEM_ASSIGN_OR_RETURN(
      const parallel::ShardPlan plan,
      parallel::PlanShards(
          file->config(), costs,
          {.ranks = RanksOf(options), .weights = options.weights, .memory = options.memory}));
  TANDEM_RETURN_IF_ERROR(
      core::CheckLimits(choices.device, file->config(),
                        options.model.prefill_chunk + int64_t{options.model.max_running}));
  const std::vector<parallel::GpuMemory> gpus = OnGpus(options, choices, *file, plan);
  if (options.json) {
    PrintJson(PlanJson(options.model.model, file->config(), plan, gpus), kIndented);
  } else {
    WriteOutput(parallel::ToTable(file->config(), plan) + (gpus.empty() ? "" : GpuTable(gpus)));
  }
  return absl::OkStatus();
}

}  // namespace tandem::launcher
