#include "launcher/bench/bench_scenario.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <set>

#include "core/base/phase_times.h"
#include "parallel/sharding/shard_plan.h"
#include "tests/support/fake_model.h"
#include "tests/support/local_cluster.h"

namespace tandem::launcher {
namespace {

using testing::FakeConfig;
using testing::FakeModel;
using testing::LocalCluster;

constexpr int32_t kChunk = 16;

class BenchScenarioTest : public ::testing::TestWithParam<int> {
 protected:
  void Start(int32_t max_running, int32_t max_waiting) {
    const auto plan = parallel::PlanShards(
        FakeConfig(), {.query_head = 1, .kv_head = 1, .ffn_column = 1, .vocab_row = 1},
        {.ranks = GetParam()});
    ASSERT_TRUE(plan.ok()) << plan.status();
    LocalCluster::Options options;
    options.ranks = GetParam();
    options.rank.max_running = max_running;
    options.rank.max_waiting = max_waiting;
    options.rank.prefill_chunk = kChunk;
    for (int rank = 0; rank < GetParam(); ++rank) {
      clocks_.push_back(std::make_unique<core::PhaseClock>());
      options.phases.push_back(clocks_.back().get());
    }
    options.model = [shards = plan->shards](int rank) {
      return std::make_unique<FakeModel>(FakeConfig(), shards[static_cast<size_t>(rank)]);
    };
    auto cluster = LocalCluster::Start(options);
    ASSERT_TRUE(cluster.ok()) << cluster.status();
    cluster_ = *std::move(cluster);
  }

  absl::StatusOr<double> Measure(const BenchScenario& scenario,
                                 const ScenarioProgress& progress = {}) {
    return MeasureScenario(cluster_->engine(), scenario, kChunk, FakeConfig().vocab, progress);
  }

  std::vector<std::unique_ptr<core::PhaseClock>> clocks_;  // [ranks]
  std::unique_ptr<LocalCluster> cluster_;
};

TEST_P(BenchScenarioTest, MeasuresAPrefill) {
  Start(1, 1);
  const auto speed = Measure({.sequences = 0, .prompt = 100, .generated = 0});
  ASSERT_TRUE(speed.ok()) << speed.status();
  EXPECT_GT(*speed, 0);
  cluster_->Stop();
  EXPECT_EQ(clocks_[0]->Steps(0).tokens, 100);
  EXPECT_EQ(clocks_[0]->Steps(1).steps, 0);
}

TEST_P(BenchScenarioTest, DecodesAllSequencesTogether) {
  Start(5, 5);
  const auto speed = Measure({.sequences = 5, .prompt = 9, .generated = 600}, [](double fraction) {
    EXPECT_GE(fraction, 0.0);
    EXPECT_LE(fraction, 1.0);
  });
  ASSERT_TRUE(speed.ok()) << speed.status();
  EXPECT_GT(*speed, 0);
  cluster_->Stop();
  // What was measured is what the ranks kept the time of.
  for (const auto& clock : clocks_) {
    const core::PhaseTimes together = clock->Steps(5);
    EXPECT_GT(together.steps, 0);
    EXPECT_EQ(together.tokens, 5 * together.steps);
  }
}

TEST_P(BenchScenarioTest, TellsWhatTheEngineRefuses) {
  Start(2, 1);
  // Longer than the context.
  EXPECT_EQ(Measure({.sequences = 0, .prompt = FakeConfig().context + 1}).status().code(),
            absl::StatusCode::kOutOfRange);
  // More than run and wait: those that were taken are ended before the error is told.
  EXPECT_EQ(Measure({.sequences = 8, .prompt = 8, .generated = 500}).status().code(),
            absl::StatusCode::kResourceExhausted);
  // The engine is as good as before.
  EXPECT_TRUE(Measure({.sequences = 0, .prompt = 5}).ok());
}

TEST_P(BenchScenarioTest, TellsIfSequencesNeverRanTogether) {
  Start(1, 8);
  const absl::Status status = Measure({.sequences = 3, .prompt = 4, .generated = 5}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
}

INSTANTIATE_TEST_SUITE_P(Ranks, BenchScenarioTest, ::testing::Values(1, 2));

TEST(BenchScenario, AsksForMoreTokensWherePromptsTakeTurns) {
  EXPECT_EQ((BenchScenario{.sequences = 0, .prompt = 512}).asked(512), 1);
  EXPECT_EQ((BenchScenario{.sequences = 1, .prompt = 1, .generated = 128}).asked(512), 129);
  // 4 prompts of 100 tokens are through after 7 steps of 64.
  const BenchScenario four{.sequences = 4, .prompt = 100, .generated = 10};
  EXPECT_GE(four.asked(64), 1 + 10 + 7);
  EXPECT_LE(four.asked(64), 1 + 10 + 7 + 4);
}

}  // namespace
}  // namespace tandem::launcher
