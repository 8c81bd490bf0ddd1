#include "parallel/placement/gpu_division.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "core/base/counted.h"
#include "fmt/ranges.h"
#include "parallel/communicators/gather_messages.h"
#include "parallel/sharding/model_costs.h"

namespace tandem::parallel {

template <typename Archive>
void Fields(Archive& archive, GpuFacts& facts) {
  constexpr size_t kLongest = 1 << 10;
  archive(core::AtMost(facts.device, kLongest, "bytes of a device's name"),
          core::AtMost(facts.driver, kLongest, "bytes of a driver's version"), facts.free_bytes,
          facts.bytes_per_second, facts.sharers);
  archive.Require(facts.sharers >= 1, "a GPU of {} ranks", facts.sharers);
}

namespace {

constexpr double kAlike = 0.9;  // of the fastest: such speeds count as equal
constexpr double kWeightStep = 0.05;
constexpr int64_t kTaken = int64_t{32} << 20;  // by a device, before its room is looked at again
constexpr int kMostTrials = 64;

std::string WeightsText(const std::vector<double>& weights) {
  std::vector<std::string> texts;
  texts.reserve(weights.size());
  for (const double weight : weights) texts.push_back(fmt::format("{:g}", weight));
  return fmt::format("{}", fmt::join(texts, ","));
}

/// Relative speeds by what was measured; empty: they are alike, or were not measured.
std::vector<double> MeasuredWeights(const std::vector<GpuFacts>& facts) {
  std::vector<double> speeds;
  speeds.reserve(facts.size());
  for (const GpuFacts& each : facts) speeds.push_back(each.bytes_per_second / each.sharers);
  const auto [slowest, fastest] = std::minmax_element(speeds.begin(), speeds.end());
  if (*slowest <= 0 || *slowest >= kAlike * *fastest) return {};
  std::vector<double> weights;
  weights.reserve(speeds.size());
  for (const double speed : speeds) {
    weights.push_back(std::round(speed / *slowest / kWeightStep) * kWeightStep);
  }
  return weights;
}

std::string SpeedsText(const std::vector<GpuFacts>& facts, const std::vector<std::string>& places) {
  std::string text;
  for (size_t r = 0; r < facts.size(); ++r) {
    text += fmt::format("{}rank {} on host {} {:.0f} GB/s", r == 0 ? "" : ", ", r, places[r],
                        facts[r].bytes_per_second / facts[r].sharers / 1e9);
  }
  return text;
}

/// Cuts a model so that each rank has room.
class Division {
 public:
  Division(const core::ModelFile& file, const ModelCosts& costs, PlanOptions plan,
           const GpuMemoryOptions& options, std::vector<int64_t> rooms)
      : file_(file),
        costs_(costs),
        plan_(std::move(plan)),
        options_(options),
        rooms_(std::move(rooms)) {}

  /// good_cache: for a sequence of 8192 tokens, or what was asked for; else the least. Nothing if
  /// no plan was found.
  std::optional<ShardPlan> Cut(bool good_cache) const {
    PlanOptions options = plan_;
    options.memory = rooms_;
    for (int trial = 0; trial < kMostTrials; ++trial) {
      absl::StatusOr<ShardPlan> plan = PlanShards(file_.config(), costs_, options);
      if (!plan.ok()) return std::nullopt;
      bool fits = true;
      for (size_t r = 0; r < rooms_.size(); ++r) {
        const double over = Over(plan->shards[r], rooms_[r], good_cache);
        if (over <= 0) continue;
        fits = false;
        options.memory[r] = static_cast<int64_t>(plan->bytes[r].total() * (1 - over)) - 1;
      }
      if (fits) return *std::move(plan);
    }
    return std::nullopt;
  }

 private:
  /// The share of a rank's weights and cache that is too much.
  double Over(const core::Shard& shard, int64_t room, bool good_cache) const {
    const GpuMemory memory = MemoryOnGpu(file_, shard, options_);
    int64_t cache = options_.kv_memory > 0 ? memory.cache : memory.least_cache;
    if (good_cache && options_.kv_memory == 0) {
      GpuMemoryOptions one = options_;
      one.max_running = 1;
      cache = std::max(cache, MemoryOnGpu(file_, shard, one).cache);
    }
    const int64_t needed = memory.weights + cache + memory.workspace + kGpuReserve;
    return static_cast<double>(needed - room) /
           static_cast<double>(std::max<int64_t>(1, memory.weights + cache));
  }

  const core::ModelFile& file_;
  const ModelCosts& costs_;
  const PlanOptions plan_;
  const GpuMemoryOptions& options_;
  const std::vector<int64_t> rooms_;  // [ranks] bytes
};

/// Ranks that got less than their weight, and why.
std::string CutText(const ShardPlan& even, const ShardPlan& plan,
                    const std::vector<GpuFacts>& facts, const std::vector<std::string>& places) {
  std::string text;
  for (size_t r = 0; r < facts.size(); ++r) {
    if (plan.bytes[r].total() >= even.bytes[r].total()) continue;
    text += fmt::format("; rank {} on host {} takes less, since {} are free there", r, places[r],
                        SizeText(facts[r].free_bytes));
    if (facts[r].sharers > 1) text += fmt::format(" for {} ranks", facts[r].sharers);
  }
  return text;
}

}  // namespace

absl::StatusOr<std::vector<GpuFacts>> GatherGpuFacts(Communicator& world, const GpuFacts& mine) {
  return GatherMessages(world, mine);
}

std::vector<std::string> PlacesOf(const std::vector<std::string>& hosts,
                                  const std::vector<GpuFacts>& facts) {
  std::vector<std::string> places = hosts;
  for (size_t r = 0; r < facts.size(); ++r) {
    if (!facts[r].device.empty()) places[r] += " (" + facts[r].device + ")";
  }
  return places;
}

std::string DriverDifferences(const std::vector<std::string>& places,
                              const std::vector<GpuFacts>& facts) {
  std::map<std::string, std::vector<std::string>> ranks;  // driver -> who has it
  for (size_t r = 0; r < facts.size(); ++r) {
    ranks[facts[r].driver].push_back(fmt::format("rank {} on host {}", r, places[r]));
  }
  if (ranks.size() < 2) return {};
  std::vector<std::string> texts;
  texts.reserve(ranks.size());
  for (const auto& [driver, who] : ranks) {
    texts.push_back(
        fmt::format("{} on {}", driver.empty() ? "an unknown one" : driver, fmt::join(who, ", ")));
  }
  return fmt::format("NVIDIA drivers differ: {}", fmt::join(texts, "; "));
}

absl::StatusOr<GpuDivision> DivideAmongGpus(const core::ModelFile& file,
                                            const std::vector<GpuFacts>& facts,
                                            const std::vector<std::string>& places,
                                            const std::vector<double>& weights,
                                            const GpuMemoryOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(const ModelCosts costs, CostsOf(file));
  const std::vector<double> measured =
      weights.empty() ? MeasuredWeights(facts) : std::vector<double>();
  GpuDivision division;
  PlanOptions wish{.ranks = static_cast<int>(facts.size()), .weights = weights};
  if (!weights.empty()) {
    division.why = fmt::format("weights {}, as --weights says", WeightsText(weights));
  } else if (!measured.empty()) {
    wish.weights = measured;
    division.why = fmt::format("weights {} by how fast the GPUs copy: {}", WeightsText(measured),
                               SpeedsText(facts, places));
  } else {
    division.why = "equal weights, since the GPUs copy alike: " + SpeedsText(facts, places);
  }
  wish.whole_groups = !wish.weights.empty();
  TANDEM_ASSIGN_OR_RETURN(const ShardPlan even, PlanShards(file.config(), costs, wish));
  std::vector<int64_t> rooms;
  rooms.reserve(facts.size());
  for (const GpuFacts& each : facts) {
    rooms.push_back(std::max<int64_t>(0, each.free_bytes / each.sharers - kTaken));
  }
  // Where all have alike, ranks that take more than others are none too small for it.
  const auto [least, most] = std::minmax_element(rooms.begin(), rooms.end());
  const bool memory_differs = static_cast<double>(*least) < kAlike * static_cast<double>(*most);
  wish.whole_groups = wish.whole_groups || memory_differs;
  const Division cut(file, costs, wish, options, rooms);
  for (const bool good_cache : {true, false}) {
    std::optional<ShardPlan> plan = cut.Cut(good_cache);
    if (!plan.has_value()) continue;
    division.plan = *std::move(plan);
    division.why += CutText(even, division.plan, facts, places);
    division.fits = true;
    return division;
  }
  division.plan = even;
  return division;
}

}  // namespace tandem::parallel
