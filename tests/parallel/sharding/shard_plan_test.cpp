#include "parallel/sharding/shard_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>
#include <random>

#include "tests/parallel/sharding/try_all_partitions.h"

namespace tandem::parallel {
namespace {

using ::testing::HasSubstr;

core::ModelConfig Config(int heads, int kv_heads, int head_dim, int ffn_dim, int vocab) {
  core::ModelConfig config;
  config.layers = 2;
  config.heads = heads;
  config.kv_heads = kv_heads;
  config.head_dim = head_dim;
  config.dim = heads * head_dim;
  config.ffn_dim = ffn_dim;
  config.vocab = vocab;
  return config;
}

core::ModelConfig SmolLm2() {
  core::ModelConfig config = Config(9, 3, 64, 1536, 49152);
  config.layers = 30;
  return config;
}

core::ModelConfig Gemma3() {
  core::ModelConfig config = Config(4, 1, 256, 2048, 262144);
  config.layers = 18;
  config.dim = 640;
  return config;
}

core::ModelConfig Llama3() {
  core::ModelConfig config = Config(32, 8, 128, 14336, 128256);
  config.layers = 32;
  return config;
}

/// All matrices of one type with `bytes` per element.
ModelCosts Costs(const core::ModelConfig& config, double bytes = 0.625) {
  const double head = bytes * config.layers * config.head_dim * config.dim;
  return {2 * head, 2 * head, 3 * bytes * config.layers * config.dim, bytes * config.dim, 4096};
}

ShardPlan MustPlan(const core::ModelConfig& config, const ModelCosts& costs,
                   const PlanOptions& options) {
  absl::StatusOr<ShardPlan> plan = PlanShards(config, costs, options);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return plan.ok() ? *std::move(plan) : ShardPlan{};
}

void ExpectFastest(const core::ModelConfig& config, const std::vector<double>& speeds) {
  const ModelCosts costs = Costs(config);
  const int ranks = static_cast<int>(speeds.size());
  const ShardPlan plan = MustPlan(config, costs, {ranks, speeds, {}});
  ASSERT_EQ(plan.ranks(), ranks);
  ASSERT_TRUE(CheckPlan(config, plan.shards).ok());
  const int leaf = config.heads_per_partial_sum();
  const auto heads = [&](int64_t begin, int64_t end) {
    const int64_t first = std::min<int64_t>(begin * leaf, config.heads);
    return core::Range{first, std::min<int64_t>(end * leaf, config.heads) - first};
  };
  const auto kv = [&](int64_t begin, int64_t end) {
    return KvHeadsOf(config, heads(begin, end)).count;
  };
  LineProblem problem;
  problem.units = LargestRankCount(config);
  problem.minimum_units = 1;
  problem.speeds = speeds;
  problem.cost = [&](int64_t begin, int64_t end) {
    return static_cast<double>(heads(begin, end).count) * costs.query_head +
           static_cast<double>(kv(begin, end)) * costs.kv_head;
  };
  problem.penalty = kv;
  const TriedPartition attention = TryAllPartitions(problem);
  EXPECT_EQ(plan.attention.slowest, attention.time)
      << config.heads << "/" << config.kv_heads << " on " << ranks;
  int64_t held = 0;
  for (const core::Shard& shard : plan.shards) held += shard.kv_heads.count;
  EXPECT_EQ(held, attention.penalty) << config.heads << "/" << config.kv_heads << " on " << ranks;
}

TEST(ShardPlan, AttentionIsFastestForAllSmallShapes) {
  for (int heads = 1; heads <= 10; ++heads) {
    for (int kv_heads = 1; kv_heads <= heads; ++kv_heads) {
      if (heads % kv_heads != 0) continue;
      for (int ranks = 1; ranks <= heads; ++ranks) {
        ExpectFastest(Config(heads, kv_heads, 32, 64, 64),
                      std::vector<double>(static_cast<size_t>(ranks), 1.0));
      }
    }
  }
}

TEST(ShardPlan, AttentionIsFastestOnUnequalMachines) {
  std::mt19937 random(3);
  const std::vector<double> speeds = {0.05, 0.5, 1, 1, 2, 3, 7};
  for (int trial = 0; trial < 400; ++trial) {
    const int kv_heads = 1 + static_cast<int>(random() % 4);
    const int heads = kv_heads * (1 + static_cast<int>(random() % 4));
    // Head dimensions 16 and 48 make leaves of two heads, 8 of four.
    const int head_dim = std::vector<int>{8, 16, 32, 48, 64}[random() % 5];
    const core::ModelConfig config = Config(heads, kv_heads, head_dim, 64, 64);
    const int ranks = 1 + static_cast<int>(random() % LargestRankCount(config));
    std::vector<double> weights;
    for (int r = 0; r < ranks; ++r) weights.push_back(speeds[random() % speeds.size()]);
    ExpectFastest(config, weights);
  }
}

TEST(ShardPlan, EveryShapeUpTo32HeadsIsCoveredOnAnyRankCount) {
  for (int heads = 1; heads <= 32; ++heads) {
    for (int kv_heads = 1; kv_heads <= heads; ++kv_heads) {
      if (heads % kv_heads != 0) continue;
      const core::ModelConfig config = Config(heads, kv_heads, 64, 1000, 515);
      for (int ranks = 1; ranks <= heads; ++ranks) {
        const ShardPlan plan = MustPlan(config, Costs(config), {ranks, {}, {}});
        ASSERT_TRUE(CheckPlan(config, plan.shards).ok());
        // A rank with ceil(heads / ranks) query heads never needs more KV heads than this.
        const int most = (heads + ranks - 1) / ranks;
        const int kv_most =
            std::min(kv_heads, (most + config.group_size() - 2) / config.group_size() + 1);
        const double bound = most * Costs(config).query_head + kv_most * Costs(config).kv_head;
        EXPECT_LE(plan.attention.slowest, bound);
        EXPECT_GE(plan.attention.slowest, plan.attention.ideal * (1 - 1e-12));
        for (int64_t kv = 0; kv < kv_heads; ++kv) {
          int64_t recorded = 0;
          for (int rank = 0; rank < ranks; ++rank) {
            const core::Range range = RecordedKvHeads(plan.shards, rank);
            if (kv >= range.begin && kv < range.end()) {
              ++recorded;
              EXPECT_EQ(rank, HoldersOfKvHead(plan.shards, kv).begin);
            }
          }
          EXPECT_EQ(recorded, 1) << "KV head " << kv << " of " << heads << "/" << kv_heads;
        }
      }
    }
  }
}

TEST(ShardPlan, SmolLm2OnTwoRanksSplitsTheMiddleGroup) {
  const core::ModelConfig config = SmolLm2();
  const ShardPlan plan = MustPlan(config, Costs(config), {2, {}, {}});
  EXPECT_EQ(plan.shards[0].query_heads, (core::Range{0, 5}));
  EXPECT_EQ(plan.shards[0].kv_heads, (core::Range{0, 2}));
  EXPECT_EQ(plan.shards[1].query_heads, (core::Range{5, 4}));
  EXPECT_EQ(plan.shards[1].kv_heads, (core::Range{1, 2}));
  EXPECT_EQ(plan.shards[0].ffn_columns, (core::Range{0, 768}));
  EXPECT_EQ(plan.shards[1].vocab_rows, (core::Range{24576, 24576}));
  EXPECT_NEAR(plan.layer_time_over_ideal(), 1.0 / 24, 1e-12);
  EXPECT_EQ(RecordedKvHeads(plan.shards, 1), (core::Range{2, 1}));
  EXPECT_EQ(HoldersOfKvHead(plan.shards, 1), (core::Range{0, 2}));
}

TEST(ShardPlan, WholeGroupsWhereTheyCostNothing) {
  for (const int ranks : {3, 1}) {
    const ShardPlan plan = MustPlan(SmolLm2(), Costs(SmolLm2()), {ranks, {}, {}});
    int64_t held = 0;
    for (const core::Shard& shard : plan.shards) held += shard.kv_heads.count;
    EXPECT_EQ(held, 3);
    EXPECT_NEAR(plan.time_over_ideal(), 0, 1e-12);
  }
  for (const int ranks : {2, 4, 8}) {
    const ShardPlan plan = MustPlan(Llama3(), Costs(Llama3()), {ranks, {}, {}});
    int64_t held = 0;
    for (const core::Shard& shard : plan.shards) held += shard.kv_heads.count;
    EXPECT_EQ(held, 8);
    EXPECT_NEAR(plan.time_over_ideal(), 0, 1e-12);
  }
}

TEST(ShardPlan, RealModelsOnEveryRankCount) {
  for (const core::ModelConfig& config : {SmolLm2(), Gemma3(), Llama3()}) {
    for (int ranks = 1; ranks <= 32; ++ranks) {
      const auto plan = PlanShards(config, Costs(config), {ranks, {}, {}});
      if (ranks > config.heads) {
        EXPECT_EQ(plan.status().code(), absl::StatusCode::kOutOfRange);
        EXPECT_THAT(Message(plan.status()), HasSubstr(fmt::format("-n {}", config.heads)));
        continue;
      }
      ASSERT_TRUE(plan.ok()) << plan.status();
      // Feed-forward and vocabulary are as even as their units allow.
      const auto units = [](int64_t n, int64_t unit) { return (n + unit - 1) / unit; };
      const int64_t leaves = units(units(config.ffn_dim, config.ffn_partial_columns()), ranks);
      const int64_t rows = units(units(config.vocab, 16), ranks) * 16;
      for (const core::Shard& shard : plan->shards) {
        EXPECT_LE(shard.ffn_columns.count, leaves * config.ffn_partial_columns());
        EXPECT_LE(shard.vocab_rows.count, rows);
        EXPECT_EQ(shard.vocab_rows.begin % 16, 0);
      }
      EXPECT_LE(LargestVocabShard(plan->shards), rows);
    }
  }
}

TEST(ShardPlan, UnequalMachinesTakeTheirShare) {
  const ShardPlan plan = MustPlan(Llama3(), Costs(Llama3()), {3, {1, 1, 2}, {}});
  EXPECT_EQ(plan.shards[0].query_heads, (core::Range{0, 8}));
  EXPECT_EQ(plan.shards[1].query_heads, (core::Range{8, 8}));
  EXPECT_EQ(plan.shards[2].query_heads, (core::Range{16, 16}));
  EXPECT_EQ(plan.shards[2].ffn_columns, (core::Range{7168, 7168}));
  EXPECT_NEAR(plan.layer_time_over_ideal(), 0, 1e-12);
  // 9 heads at 1, 1, 2: 2 + 2 + 5 would read 4 KV heads; what counts is the slowest.
  ExpectFastest(SmolLm2(), {1, 1, 2});
}

TEST(ShardPlan, GroupsStayWholeWhereThatIsAsked) {
  const auto kv_heads = [](const ShardPlan& plan) {
    std::vector<int64_t> heads;
    for (const core::Shard& shard : plan.shards) heads.push_back(shard.kv_heads.count);
    return heads;
  };
  const core::ModelConfig llama = Llama3();
  EXPECT_EQ(kv_heads(MustPlan(llama, Costs(llama), {.ranks = 3, .whole_groups = true})),
            (std::vector<int64_t>{3, 3, 2}));
  EXPECT_EQ(kv_heads(MustPlan(llama, Costs(llama),
                              {.ranks = 2, .weights = {2.6, 1}, .whole_groups = true})),
            (std::vector<int64_t>{6, 2}));
  // More ranks than groups: then they are split.
  const ShardPlan split = MustPlan(Gemma3(), Costs(Gemma3()), {.ranks = 2, .whole_groups = true});
  EXPECT_EQ(kv_heads(split), (std::vector<int64_t>{1, 1}));
}

TEST(ShardPlan, ARankMayOwnNoColumnsAndNoRows) {
  const core::ModelConfig config = Config(8, 8, 64, 128, 20);
  const ShardPlan plan = MustPlan(config, Costs(config), {8, {}, {}});
  int64_t empty = 0;
  for (const core::Shard& shard : plan.shards) empty += shard.ffn_columns.count == 0 ? 1 : 0;
  EXPECT_EQ(empty, 6);
  EXPECT_EQ(LargestVocabShard(plan.shards), 16);
}

TEST(ShardPlan, AShortLastLeafGoesWhereItSavesTime) {
  // Five leaves, the last with 32 of 64 columns: 2 + 3 with the short one is faster than 3 + 2.
  const core::ModelConfig config = Config(4, 4, 64, 4 * 64 + 32, 64);
  const ShardPlan plan = MustPlan(config, Costs(config), {2, {}, {}});
  EXPECT_EQ(plan.shards[0].ffn_columns, (core::Range{0, 128}));
  EXPECT_EQ(plan.shards[1].ffn_columns, (core::Range{128, 160}));
}

TEST(ShardPlan, EvenWhereTheSlowestRankAllowsMore) {
  // 24 leaves on 9 ranks take 3 leaves' time whatever the others do; none is left with less than 2.
  const ShardPlan plan = MustPlan(SmolLm2(), Costs(SmolLm2()), {9, {}, {}});
  for (const core::Shard& shard : plan.shards) {
    EXPECT_GE(shard.ffn_columns.count, 2 * 64);
    EXPECT_GE(shard.vocab_rows.count, 49152 / 9 / 16 * 16);
  }
}

TEST(ShardPlan, LeavesOfSeveralHeadsAreKeptWhole) {
  const core::ModelConfig config = Config(12, 4, 80, 256, 64);  // 80 columns: leaves of two heads
  ASSERT_EQ(config.heads_per_partial_sum(), 2);
  EXPECT_EQ(LargestRankCount(config), 6);
  const ShardPlan plan = MustPlan(config, Costs(config), {5, {}, {}});
  for (const core::Shard& shard : plan.shards) EXPECT_EQ(shard.query_heads.begin % 2, 0);
  EXPECT_THAT(Message(PlanShards(config, Costs(config), {7, {}, {}}).status()), HasSubstr("-n 6"));
}

TEST(ShardPlan, MemoryShiftsWorkToWhereItFits) {
  const core::ModelConfig config = Llama3();
  const ModelCosts costs = Costs(config);
  const ShardPlan free = MustPlan(config, costs, {4, {}, {}});
  const auto need = static_cast<int64_t>(free.bytes[0].total());
  // Rank 0 holds 70 % of its even share; the others make up for it.
  const std::vector<int64_t> memory = {need * 7 / 10, need * 5 / 4, need * 5 / 4, need * 5 / 4};
  const ShardPlan plan = MustPlan(config, costs, {4, {}, memory});
  for (size_t r = 0; r < 4; ++r) {
    EXPECT_LE(plan.bytes[r].total(), static_cast<double>(memory[r]));
  }
  EXPECT_GT(plan.time_over_ideal(), free.time_over_ideal());
  // Three ranks with 1/3 of what rank 0 gives up each: 10 % over, some granularity on top.
  EXPECT_LT(plan.time_over_ideal(), 0.15);
  // Limits that do not bind change nothing.
  const ShardPlan same = MustPlan(config, costs, {4, {}, std::vector<int64_t>(4, need + 4096)});
  EXPECT_EQ(same.shards, free.shards);
}

TEST(ShardPlan, TooLittleMemoryIsRefusedWithNumbers) {
  const core::ModelConfig config = Llama3();
  const auto plan = PlanShards(config, Costs(config), {2, {}, {1 << 20, 1 << 20}});
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(plan.status()), HasSubstr("2 ranks can hold 2.0 MiB"));
}

TEST(ShardPlan, RefusesBadOptions) {
  const core::ModelConfig config = SmolLm2();
  const ModelCosts costs = Costs(config);
  const auto message = [&](const PlanOptions& options) {
    return Message(PlanShards(config, costs, options).status());
  };
  EXPECT_THAT(message({0, {}, {}}), HasSubstr("at least 1"));
  EXPECT_THAT(message({10, {}, {}}), HasSubstr("10 ranks are too many"));
  EXPECT_THAT(message({10, {}, {}}), HasSubstr("-n 9"));
  EXPECT_THAT(message({2, {1, 1, 2}, {}}), HasSubstr("3 numbers"));
  EXPECT_THAT(message({2, {1, 0}, {}}), HasSubstr("rank 1"));
  EXPECT_THAT(message({2, {1, std::numeric_limits<double>::quiet_NaN()}, {}}),
              HasSubstr("above 0"));
  EXPECT_THAT(message({2, {1, std::numeric_limits<double>::infinity()}, {}}), HasSubstr("above 0"));
  EXPECT_THAT(message({2, {}, {1}}), HasSubstr("expected 2"));
}

TEST(ShardPlan, LargestWorldsArePlanned) {
  const core::ModelConfig config = Config(512, 64, 128, 65536, 262144);
  for (const int ranks : {2, 100, 256, 511, 512}) {
    const ShardPlan plan = MustPlan(config, Costs(config), {ranks, {}, {}});
    EXPECT_TRUE(CheckPlan(config, plan.shards).ok());
  }
  std::vector<double> weights(300, 1.0);
  weights[7] = 0.01;
  EXPECT_TRUE(CheckPlan(config, MustPlan(config, Costs(config), {300, weights, {}}).shards).ok());
}

TEST(CheckPlan, FindsEveryKindOfFlaw) {
  const core::ModelConfig config = SmolLm2();
  const std::vector<core::Shard> good = MustPlan(config, Costs(config), {3, {}, {}}).shards;
  ASSERT_TRUE(CheckPlan(config, good).ok());
  const auto message = [&](const std::function<void(std::vector<core::Shard>&)>& spoil) {
    std::vector<core::Shard> bad = good;
    spoil(bad);
    return Message(CheckPlan(config, bad));
  };
  EXPECT_THAT(message([](auto& s) { s[1].query_heads.begin = 2; }), HasSubstr("rank 1"));
  EXPECT_THAT(message([](auto& s) { s[2].query_heads.count = 4; }), HasSubstr("rank 2"));
  EXPECT_THAT(message([](auto& s) { s[2].query_heads.count = 2; }), HasSubstr("8 of 9"));
  EXPECT_THAT(message([](auto& s) { s[1].kv_heads = {0, 2}; }), HasSubstr("need 1 to 2"));
  EXPECT_THAT(message([](auto& s) { s[0].ffn_columns.count = 100; }), HasSubstr("multiples of 64"));
  EXPECT_THAT(message([](auto& s) { s[2].ffn_columns.count -= 64; }), HasSubstr("columns"));
  EXPECT_THAT(message([](auto& s) { s[1].vocab_rows.begin += 1; }), HasSubstr("vocabulary rows"));
  EXPECT_THAT(message([](auto& s) { s[0].vocab_rows.count = -5; }), HasSubstr("rank 0"));
  EXPECT_THAT(message([](auto& s) { s.pop_back(); }), HasSubstr("2 ranks hold 6 of 9"));
}

TEST(PlanHash, TellsPlansApart) {
  const ModelCosts costs = Costs(SmolLm2());
  const auto hash = [&](int ranks) {
    return PlanHash(MustPlan(SmolLm2(), costs, {ranks, {}, {}}).shards);
  };
  EXPECT_EQ(hash(2), hash(2));
  EXPECT_NE(hash(2), hash(3));
  std::vector<core::Shard> shards = MustPlan(SmolLm2(), costs, {2, {}, {}}).shards;
  const uint64_t before = PlanHash(shards);
  shards[1].vocab_rows.count -= 1;
  EXPECT_NE(before, PlanHash(shards));
}

}  // namespace
}  // namespace tandem::parallel
