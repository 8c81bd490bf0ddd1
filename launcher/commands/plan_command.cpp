#include <nlohmann/json.hpp>

#include "core/formats/model_file.h"
#include "core/system/standard_output.h"
#include "launcher/commands/commands.h"
#include "launcher/commands/json_output.h"
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

ordered_json PlanJson(const std::string& model, const core::ModelConfig& config,
                      const parallel::ShardPlan& plan) {
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
  TANDEM_ASSIGN_OR_RETURN(const auto file, core::ModelFile::Open(options.model));
  TANDEM_ASSIGN_OR_RETURN(const parallel::ModelCosts costs, parallel::CostsOf(*file));
  TANDEM_ASSIGN_OR_RETURN(
      const parallel::ShardPlan plan,
      parallel::PlanShards(
          file->config(), costs,
          {.ranks = options.ranks, .weights = options.weights, .memory = options.memory}));
  if (options.json) {
    PrintJson(PlanJson(options.model, file->config(), plan), kIndented);
  } else {
    WriteOutput(parallel::ToTable(file->config(), plan));
  }
  return absl::OkStatus();
}

}  // namespace tandem::launcher
