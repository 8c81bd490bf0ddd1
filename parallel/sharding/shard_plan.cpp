#include "parallel/sharding/shard_plan.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>

#include "core/base/counted.h"
#include "parallel/sharding/line_partition.h"

namespace tandem::parallel {
namespace {

using core::ModelConfig;
using core::Range;
using core::Shard;

constexpr int64_t kVocabUnit = 16;  // rows of a packed tile
constexpr int kMemoryTrials = 16;   // ways to share short memory between two phases

/// The range of elements of the units [begin, end), the last unit perhaps short.
Range UnitsToRange(int64_t begin, int64_t end, int64_t unit, int64_t elements) {
  const int64_t first = std::min(begin * unit, elements);
  return {first, std::min(end * unit, elements) - first};
}

int64_t Units(int64_t elements, int64_t unit) { return (elements + unit - 1) / unit; }

double AttentionBytes(const ModelConfig& config, const ModelCosts& costs, Range query_heads) {
  const Range kv_heads = KvHeadsOf(config, query_heads);
  return static_cast<double>(query_heads.count) * costs.query_head +
         static_cast<double>(kv_heads.count) * costs.kv_head;
}

/// Cuts the phases of one model, each on its own, under limits per rank.
class Planner {
 public:
  /// head_unit: query heads between places where a cut may be.
  Planner(const ModelConfig& config, const ModelCosts& costs, std::vector<double> speeds,
          int64_t head_unit)
      : config_(config), costs_(costs), speeds_(std::move(speeds)), head_unit_(head_unit) {}

  double AttentionTotal() const { return AttentionBytes(config_, costs_, {0, config_.heads}); }
  double FeedForwardTotal() const { return config_.ffn_dim * costs_.ffn_column; }
  double VocabularyTotal() const { return config_.vocab * costs_.vocab_row; }

  std::optional<std::vector<Range>> CutAttention(const std::vector<double>& limits) const {
    const int64_t unit = head_unit_;
    LineProblem problem;
    problem.minimum_units = 1;
    problem.penalty = [this, unit](int64_t begin, int64_t end) {
      return KvHeadsOf(config_, UnitsToRange(begin, end, unit, config_.heads)).count;
    };
    return Cut(std::move(problem), config_.heads, unit, limits, [this](Range heads) {
      return heads.count == 0 ? 0.0 : AttentionBytes(config_, costs_, heads);
    });
  }

  std::optional<std::vector<Range>> CutFeedForward(const std::vector<double>& limits) const {
    return Cut({}, config_.ffn_dim, config_.ffn_partial_columns(), limits, [this](Range columns) {
      return static_cast<double>(columns.count) * costs_.ffn_column;
    });
  }

  std::optional<std::vector<Range>> CutVocabulary(const std::vector<double>& limits) const {
    return Cut({}, config_.vocab, kVocabUnit, limits,
               [this](Range rows) { return static_cast<double>(rows.count) * costs_.vocab_row; });
  }

  ShardPlan Assemble(const std::vector<Range>& heads, const std::vector<Range>& columns,
                     const std::vector<Range>& rows) const {
    ShardPlan plan;
    plan.weights = speeds_;
    for (size_t r = 0; r < speeds_.size(); ++r) {
      plan.shards.push_back({heads[r], KvHeadsOf(config_, heads[r]), columns[r], rows[r]});
      plan.bytes.push_back({AttentionBytes(config_, costs_, heads[r]),
                            static_cast<double>(columns[r].count) * costs_.ffn_column,
                            static_cast<double>(rows[r].count) * costs_.vocab_row,
                            costs_.every_rank});
      Slowest(plan.attention, plan.bytes[r].attention, r);
      Slowest(plan.feed_forward, plan.bytes[r].feed_forward, r);
      Slowest(plan.vocabulary, plan.bytes[r].vocabulary, r);
    }
    const double speed = std::accumulate(speeds_.begin(), speeds_.end(), 0.0);
    plan.attention.ideal = AttentionTotal() / speed;
    plan.feed_forward.ideal = FeedForwardTotal() / speed;
    plan.vocabulary.ideal = VocabularyTotal() / speed;
    return plan;
  }

 private:
  template <typename BytesOf>
  std::optional<std::vector<Range>> Cut(LineProblem problem, int64_t elements, int64_t unit,
                                        const std::vector<double>& limits, BytesOf bytes_of) const {
    problem.units = Units(elements, unit);
    problem.speeds = speeds_;
    problem.limits = limits;
    problem.cost = [=](int64_t begin, int64_t end) {
      return bytes_of(UnitsToRange(begin, end, unit, elements));
    };
    const std::optional<std::vector<int64_t>> cuts = CutLine(problem);
    if (!cuts.has_value()) return std::nullopt;
    std::vector<Range> ranges;
    for (size_t r = 0; r + 1 < cuts->size(); ++r) {
      ranges.push_back(UnitsToRange((*cuts)[r], (*cuts)[r + 1], unit, elements));
    }
    return ranges;
  }

  void Slowest(PhaseTime& phase, double bytes, size_t rank) const {
    const double time = bytes / speeds_[rank];
    if (time <= phase.slowest) return;
    phase.slowest = time;
    phase.slowest_rank = static_cast<int>(rank);
  }

  const ModelConfig& config_;
  const ModelCosts& costs_;
  std::vector<double> speeds_;
  const int64_t head_unit_;
};

double StepTime(const ShardPlan& plan) {
  return plan.attention.slowest + plan.feed_forward.slowest + plan.vocabulary.slowest;
}

std::vector<double> Scaled(const std::vector<double>& memory, double share) {
  std::vector<double> scaled;
  scaled.reserve(memory.size());
  for (const double bytes : memory) scaled.push_back(bytes * share);
  return scaled;
}

/// The i-th of kMemoryTrials + 1 shares between `smallest` and 1.
double TrialShare(double smallest, int i) {
  return smallest + (1 - smallest) * static_cast<double>(i) / kMemoryTrials;
}

/// The fastest of plans that give the attention, and then the feed-forward, different shares of
/// what each rank can hold.
std::optional<ShardPlan> PlanInMemory(const Planner& planner, const std::vector<double>& memory) {
  const double layers = planner.AttentionTotal() + planner.FeedForwardTotal();
  const double total = layers + planner.VocabularyTotal();
  const double after_attention = total - planner.AttentionTotal();
  std::optional<ShardPlan> best;
  for (int i = 0; i <= kMemoryTrials; ++i) {
    const double attention_share = TrialShare(planner.AttentionTotal() / total, i);
    const auto heads = planner.CutAttention(Scaled(memory, attention_share));
    if (!heads.has_value()) continue;
    std::vector<double> left = memory;
    const std::vector<Range> none(memory.size());
    const ShardPlan attention_only = planner.Assemble(*heads, none, none);
    for (size_t r = 0; r < left.size(); ++r) left[r] -= attention_only.bytes[r].attention;
    for (int j = 0; j <= kMemoryTrials; ++j) {
      const double share = TrialShare(planner.FeedForwardTotal() / after_attention, j);
      const auto columns = planner.CutFeedForward(Scaled(left, share));
      if (!columns.has_value()) continue;
      std::vector<double> rest = left;
      const ShardPlan layers_only = planner.Assemble(*heads, *columns, none);
      for (size_t r = 0; r < rest.size(); ++r) rest[r] -= layers_only.bytes[r].feed_forward;
      const auto rows = planner.CutVocabulary(rest);
      if (!rows.has_value()) continue;
      ShardPlan plan = planner.Assemble(*heads, *columns, *rows);
      if (!best.has_value() || StepTime(plan) < StepTime(*best)) best = std::move(plan);
    }
  }
  return best;
}

absl::Status CheckOptions(const ModelConfig& config, const PlanOptions& options) {
  if (options.ranks < 1) {
    return InvalidArgument("cannot plan for {}; at least 1 is needed",
                           Counted(options.ranks, "rank"));
  }
  const int largest = LargestRankCount(config);
  if (options.ranks > largest) {
    const int partial = config.heads_per_partial_sum();
    const std::string unit =
        partial == 1
            ? Counted(config.heads, "query head")
            : fmt::format("{} in runs of {}", Counted(config.heads, "query head"), partial);
    return OutOfRange(
        "{} ranks are too many for this model: it has {}, one for each rank at least; "
        "the largest number that works is -n {}",
        options.ranks, unit, largest);
  }
  const auto ranks = static_cast<size_t>(options.ranks);
  if (!options.weights.empty() && options.weights.size() != ranks) {
    return InvalidArgument("--weights has {}, expected one for each of {}",
                           Counted(static_cast<int64_t>(options.weights.size()), "number"),
                           Counted(options.ranks, "rank"));
  }
  for (size_t r = 0; r < options.weights.size(); ++r) {
    if (!(options.weights[r] > 0) || !std::isfinite(options.weights[r])) {
      return InvalidArgument("--weights gives rank {} the speed {}; it must be above 0", r,
                             options.weights[r]);
    }
  }
  if (!options.memory.empty() && options.memory.size() != ranks) {
    return InvalidArgument("memory limits are given for {}, expected {}",
                           Counted(static_cast<int64_t>(options.memory.size()), "rank"), ranks);
  }
  return absl::OkStatus();
}

std::string InMib(double bytes) { return fmt::format("{:.1f} MiB", bytes / (1 << 20)); }

absl::Status TooLittleMemory(const Planner& planner, const ModelCosts& costs,
                             const PlanOptions& options) {
  double memory = 0;
  for (const int64_t bytes : options.memory) memory += static_cast<double>(bytes);
  const double needed = planner.AttentionTotal() + planner.FeedForwardTotal() +
                        planner.VocabularyTotal() + options.ranks * costs.every_rank;
  return ResourceExhausted(
      "the weights do not fit: they take {} (and more where KV heads are copied), but {} can hold "
      "{} together; use more ranks, or more memory on each",
      InMib(needed), Counted(options.ranks, "rank"), InMib(memory));
}

}  // namespace

double ShardPlan::time_over_ideal() const {
  const double ideal = attention.ideal + feed_forward.ideal + vocabulary.ideal;
  return ideal > 0 ? StepTime(*this) / ideal - 1 : 0;
}

double ShardPlan::layer_time_over_ideal() const {
  const double ideal = attention.ideal + feed_forward.ideal;
  return ideal > 0 ? (attention.slowest + feed_forward.slowest) / ideal - 1 : 0;
}

int LargestRankCount(const ModelConfig& config) {
  return static_cast<int>(Units(config.heads, config.heads_per_partial_sum()));
}

Range KvHeadsOf(const ModelConfig& config, Range query_heads) {
  const int64_t group = config.group_size();
  const int64_t first = query_heads.begin / group;
  if (query_heads.count == 0) return {first, 0};
  return {first, (query_heads.end() - 1) / group + 1 - first};
}

absl::StatusOr<ShardPlan> PlanShards(const ModelConfig& config, const ModelCosts& costs,
                                     const PlanOptions& options) {
  TANDEM_RETURN_IF_ERROR(CheckOptions(config, options));
  std::vector<double> speeds = options.weights;
  if (speeds.empty()) speeds.assign(static_cast<size_t>(options.ranks), 1.0);
  PlanOptions split = options;
  split.whole_groups = false;
  int64_t head_unit = config.heads_per_partial_sum();
  if (options.whole_groups) {
    const int64_t whole = std::lcm<int64_t>(head_unit, config.group_size());
    if (Units(config.heads, whole) < options.ranks) return PlanShards(config, costs, split);
    head_unit = whole;
  }
  const Planner planner(config, costs, std::move(speeds), head_unit);
  const auto heads = planner.CutAttention({});
  const auto columns = planner.CutFeedForward({});
  const auto rows = planner.CutVocabulary({});
  if (!heads.has_value() || !columns.has_value() || !rows.has_value()) {
    return Internal("no plan was found for {} ranks without memory limits", options.ranks);
  }
  ShardPlan plan = planner.Assemble(*heads, *columns, *rows);
  std::vector<double> memory;
  for (const int64_t bytes : options.memory) {
    memory.push_back(static_cast<double>(bytes) - costs.every_rank);
  }
  bool fits = true;
  for (size_t r = 0; r < memory.size(); ++r) {
    fits = fits && plan.bytes[r].total() - costs.every_rank <= memory[r];
  }
  if (!fits) {
    std::optional<ShardPlan> smaller = PlanInMemory(planner, memory);
    if (!smaller.has_value() && options.whole_groups) {
      return PlanShards(config, costs, split);
    }
    if (!smaller.has_value()) return TooLittleMemory(planner, costs, options);
    plan = *std::move(smaller);
  }
  TANDEM_RETURN_IF_ERROR(CheckPlan(config, plan.shards));
  return plan;
}

absl::Status CheckPlan(const ModelConfig& config, std::span<const Shard> shards) {
  const auto check = [](std::string_view what, size_t rank, Range range, int64_t expected_begin,
                        int64_t unit, int64_t elements) -> absl::Status {
    if (range.begin != expected_begin || range.count < 0) {
      return Internal("shard plan: rank {} holds {} {} to {}, expected to begin at {}", rank, what,
                      range.begin, range.end(), expected_begin);
    }
    if (range.end() > elements || (range.end() % unit != 0 && range.end() != elements)) {
      return Internal("shard plan: rank {} holds {} {} to {} of {}; cuts must be multiples of {}",
                      rank, what, range.begin, range.end(), elements, unit);
    }
    return absl::OkStatus();
  };
  int64_t heads = 0;
  int64_t columns = 0;
  int64_t rows = 0;
  for (size_t r = 0; r < shards.size(); ++r) {
    const Shard& shard = shards[r];
    TANDEM_RETURN_IF_ERROR(check("query heads", r, shard.query_heads, heads,
                                 config.heads_per_partial_sum(), config.heads));
    TANDEM_RETURN_IF_ERROR(check("columns", r, shard.ffn_columns, columns,
                                 config.ffn_partial_columns(), config.ffn_dim));
    TANDEM_RETURN_IF_ERROR(check("vocabulary rows", r, shard.vocab_rows, rows, 1, config.vocab));
    if (shard.query_heads.count == 0) {
      return Internal("shard plan: rank {} holds no query head", r);
    }
    if (const Range needed = KvHeadsOf(config, shard.query_heads); shard.kv_heads != needed) {
      return Internal("shard plan: rank {} holds KV heads {} to {}, its query heads need {} to {}",
                      r, shard.kv_heads.begin, shard.kv_heads.end(), needed.begin, needed.end());
    }
    heads = shard.query_heads.end();
    columns = shard.ffn_columns.end();
    rows = shard.vocab_rows.end();
  }
  if (heads != config.heads || columns != config.ffn_dim || rows != config.vocab) {
    return Internal(
        "shard plan: {} ranks hold {} of {} query heads, {} of {} columns, {} of {} vocabulary "
        "rows",
        shards.size(), heads, config.heads, columns, config.ffn_dim, rows, config.vocab);
  }
  return absl::OkStatus();
}

Range HoldersOfKvHead(std::span<const Shard> shards, int64_t kv_head) {
  Range holders;
  for (size_t r = 0; r < shards.size(); ++r) {
    const Range held = shards[r].kv_heads;
    if (kv_head < held.begin || kv_head >= held.end()) continue;
    if (holders.count == 0) holders.begin = static_cast<int64_t>(r);
    ++holders.count;
  }
  return holders;
}

Range RecordedKvHeads(std::span<const Shard> shards, int rank) {
  const Range held = shards[static_cast<size_t>(rank)].kv_heads;
  int64_t recorded_below = held.begin;
  for (int lower = 0; lower < rank; ++lower) {
    recorded_below = std::max(recorded_below, shards[static_cast<size_t>(lower)].kv_heads.end());
  }
  const int64_t begin = std::min(recorded_below, held.end());
  return {begin, held.end() - begin};
}

int64_t LargestVocabShard(std::span<const Shard> shards) {
  int64_t largest = 0;
  for (const Shard& shard : shards) largest = std::max(largest, shard.vocab_rows.count);
  return largest;
}

uint64_t PlanHash(std::span<const Shard> shards) {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a, 64 bits
  const auto add = [&hash](int64_t number) {
    for (int byte = 0; byte < 8; ++byte) {
      hash ^= static_cast<uint64_t>(number) >> (8 * byte) & 0xFF;
      hash *= 0x100000001b3;
    }
  };
  for (const Shard& shard : shards) {
    for (const Range& range :
         {shard.query_heads, shard.kv_heads, shard.ffn_columns, shard.vocab_rows}) {
      add(range.begin);
      add(range.count);
    }
  }
  return hash;
}

}  // namespace tandem::parallel
