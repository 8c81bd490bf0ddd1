#include "parallel/sharding/shard_plan_text.h"

#include <algorithm>
#include <array>
#include <vector>

namespace tandem::parallel {
namespace {

constexpr size_t kColumns = 7;
using Row = std::array<std::string, kColumns>;

/// "0-4 (5)", or "none".
std::string RangeText(core::Range range) {
  if (range.count == 0) return "none";
  return fmt::format("{}-{} ({})", range.begin, range.end() - 1, range.count);
}

std::string Mib(double bytes) { return fmt::format("{:.1f}", bytes / (1 << 20)); }

std::string Percent(double over) {
  // Tiny negative values are rounding in the quotient.
  return fmt::format("{:.1f} %", std::max(0.0, over * 100));
}

std::string PhaseLine(std::string_view name, const PhaseTime& phase) {
  if (phase.ideal == 0) return fmt::format("  {:<13} nothing to do\n", name);
  const double over = phase.slowest / phase.ideal - 1;
  if (over < 5e-4) return fmt::format("  {:<13} {:>7}\n", name, Percent(over));
  return fmt::format("  {:<13} {:>7}  (rank {} is the slowest)\n", name, Percent(over),
                     phase.slowest_rank);
}

}  // namespace

std::string ToTable(const core::ModelConfig& config, const ShardPlan& plan) {
  std::vector<Row> rows = {
      {"rank", "weight", "query heads", "KV heads", "columns", "vocabulary rows", "MiB"}};
  for (size_t r = 0; r < plan.shards.size(); ++r) {
    const core::Shard& shard = plan.shards[r];
    rows.push_back({fmt::format("{}", r), fmt::format("{:g}", plan.weights[r]),
                    RangeText(shard.query_heads), RangeText(shard.kv_heads),
                    RangeText(shard.ffn_columns), RangeText(shard.vocab_rows),
                    Mib(plan.bytes[r].total())});
  }
  std::array<size_t, kColumns> widths = {};
  for (const Row& row : rows) {
    for (size_t c = 0; c < kColumns; ++c) widths[c] = std::max(widths[c], row[c].size());
  }
  std::string text;
  for (const Row& row : rows) {
    for (size_t c = 0; c < kColumns; ++c) {
      text += fmt::format("{}{:>{}}", c == 0 ? "" : "  ", row[c], widths[c]);
    }
    text += '\n';
  }
  std::string copies;
  for (int64_t head = 0; head < config.kv_heads; ++head) {
    const core::Range holders = HoldersOfKvHead(plan.shards, head);
    if (holders.count < 2) continue;
    copies += fmt::format("  KV head {} on ranks {} to {}; rank {} records it\n", head,
                          holders.begin, holders.end() - 1, holders.begin);
  }
  if (!copies.empty()) text += "\nKV heads that several ranks compute:\n" + copies;
  text += "\nPredicted time over ideal (weights read, without messages):\n";
  text += PhaseLine("attention", plan.attention);
  text += PhaseLine("feed-forward", plan.feed_forward);
  text += PhaseLine("vocabulary", plan.vocabulary);
  text += fmt::format("  {:<13} {:>7}\n", "layers", Percent(plan.layer_time_over_ideal()));
  text += fmt::format("  {:<13} {:>7}\n", "whole step", Percent(plan.time_over_ideal()));
  return text;
}

}  // namespace tandem::parallel
