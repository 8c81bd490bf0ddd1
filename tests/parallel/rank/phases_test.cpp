// Where ranks keep the time of each phase, seen with clocks that count how often they are read.

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "core/cpu/cpu_operations.h"
#include "core/transformer/transformer.h"
#include "parallel/sharding/shard_plan.h"
#include "tests/support/collecting_sink.h"
#include "tests/support/local_cluster.h"
#include "tests/support/tiny_model.h"

namespace tandem::parallel {
namespace {

using core::Phase;
using core::PhaseTimes;
using testing::LocalCluster;

constexpr int kRanks = 2;

/// Ranks of a small transformer, each with a clock that goes on by one whenever it is read.
class PhasesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    bytes_ = testing::TinyModel({.layers = 3, .dtype = core::DType::kQ4_0});
    auto file = core::ModelFile::OpenBuffer(bytes_, "tiny");
    ASSERT_TRUE(file.ok()) << file.status();
    file_ = *std::move(file);
    const auto plan = PlanShards(file_->config(),
                                 {.query_head = 3, .kv_head = 2, .ffn_column = 3, .vocab_row = 1},
                                 {.ranks = kRanks});
    ASSERT_TRUE(plan.ok()) << plan.status();
    LocalCluster::Options options;
    options.ranks = kRanks;
    options.rank.prefill_chunk = 16;
    for (const core::Shard& shard : plan->shards) {
      operations_.push_back(std::make_unique<core::CpuOperations>(file_->config(), shard,
                                                                  core::CpuOptions{.threads = 2}));
      clocks_.push_back(
          std::make_unique<core::PhaseClock>([reads = int64_t{0}]() mutable { return ++reads; }));
      options.phases.push_back(clocks_.back().get());
    }
    options.model = [this, shards = plan->shards](int rank) -> std::unique_ptr<core::Model> {
      const auto r = static_cast<size_t>(rank);
      return *core::Transformer::Load(*file_, shards[r], *operations_[r], nullptr);
    };
    auto cluster = LocalCluster::Start(options);
    ASSERT_TRUE(cluster.ok()) << cluster.status();
    cluster_ = *std::move(cluster);
  }

  void Answer(int32_t prompt_tokens, int32_t max_tokens) {
    EngineRequest request;
    for (int32_t i = 0; i < prompt_tokens; ++i) request.prompt.push_back(i % 100);
    request.max_tokens = max_tokens;
    testing::CollectingSink sink;
    ASSERT_TRUE(cluster_->engine().Submit(request, sink.Sink()).ok());
    const auto finish = sink.WaitForFinish();
    ASSERT_TRUE(finish.has_value());
    EXPECT_TRUE(finish->status.ok()) << finish->status;
  }

  std::vector<std::byte> bytes_;
  std::unique_ptr<core::ModelFile> file_;
  std::vector<std::unique_ptr<core::CpuOperations>> operations_;
  std::vector<std::unique_ptr<core::PhaseClock>> clocks_;
  std::unique_ptr<LocalCluster> cluster_;
};

TEST_F(PhasesTest, EveryRankKeepsThemForPromptsAndForDecoding) {
  Answer(40, 5);
  for (const absl::Status& status : cluster_->Stop()) ASSERT_TRUE(status.ok()) << status;

  for (const auto& clock : clocks_) {
    const PhaseTimes prompt = clock->Steps(0);
    EXPECT_EQ(prompt.steps, 3);  // 16 + 16 + 8 tokens
    EXPECT_EQ(prompt.tokens, 40);
    const PhaseTimes decode = clock->Steps(1);
    EXPECT_EQ(decode.steps, 4);  // the first token came with the prompt
    EXPECT_EQ(decode.tokens, 4);
    EXPECT_EQ(clock->Steps(2), PhaseTimes{});

    for (const PhaseTimes& times : {prompt, decode}) {
      EXPECT_EQ(times[Phase::kAllReduce], 2 * 3 * times.steps);  // two a layer
      EXPECT_EQ(times[Phase::kSampling], times.steps);
      EXPECT_GE(times[Phase::kAttention], 3 * times.steps);
      EXPECT_GE(times[Phase::kFeedForward], 3 * times.steps);
      EXPECT_GE(times[Phase::kVocabulary], times.steps);
      EXPECT_GT(times.product_nanoseconds, 0);
      EXPECT_LT(times.product_nanoseconds,
                times.total_nanoseconds() - times[Phase::kAllReduce] - times[Phase::kSampling]);
      // A few dozen readings a layer would cost time themselves.
      EXPECT_LT(times.total_nanoseconds(), 24 * 3 * times.steps);
    }
    EXPECT_EQ(prompt[Phase::kIdle], 2);  // before the first step nothing was there to wait from
    EXPECT_EQ(decode[Phase::kIdle], 4);
  }
}

}  // namespace
}  // namespace tandem::parallel
