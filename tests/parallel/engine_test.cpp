#include <gtest/gtest.h>

#include <memory>
#include <thread>
#include <vector>

#include "tests/parallel/engine_suite.h"
#include "tests/support/collecting_sink.h"
#include "tests/support/fake_model.h"
#include "tests/support/random.h"

namespace tandem::testing {
namespace {

using parallel::EngineRequest;
using parallel::FinishReason;

std::vector<int32_t> RandomPrompt(SplitMix& random, size_t length) {
  std::vector<int32_t> prompt;
  for (size_t i = 0; i < length; ++i) prompt.push_back(static_cast<int32_t>(random.Below(211)));
  return prompt;
}

/// The one suite over every kind of engine.
class EngineTest : public ::testing::TestWithParam<EngineKind> {
 protected:
  void Start(LocalCluster::Options options = {}) {
    under_test_ = MakeEngine(GetParam(), std::move(options));
  }
  parallel::Engine& engine() { return *under_test_.engine; }

  parallel::RequestId Submit(EngineRequest request, CollectingSink& sink) {
    const auto id = engine().Submit(std::move(request), sink.Sink());
    EXPECT_TRUE(id.ok()) << id.status();
    return id.value_or(0);
  }

  EngineUnderTest under_test_;
};

TEST_P(EngineTest, AnswersAsTheModelSays) {
  Start();
  SplitMix random(1);
  const auto prompt = RandomPrompt(random, 150);
  CollectingSink sink;
  Submit({.prompt = prompt, .max_tokens = 70, .sampling = {}, .stop_tokens = {}}, sink);
  const auto finish = sink.WaitForFinish();
  ASSERT_TRUE(finish.has_value());
  EXPECT_EQ(finish->reason, FinishReason::kLength) << finish->status;
  EXPECT_EQ(sink.tokens(), FakeAnswer(FakeConfig(), prompt, 70));
  EXPECT_EQ(finish->usage.prompt_tokens, 150);
  EXPECT_EQ(finish->usage.completion_tokens, 70);
}

INSTANTIATE_TEST_SUITE_P(Kinds, EngineTest,
                         ::testing::Values(EngineKind{.name = "Threads1", .ranks = 1},
                                           EngineKind{.name = "Threads2", .ranks = 2},
                                           EngineKind{.name = "Threads3", .ranks = 3},
                                           EngineKind{.name = "Threads5", .ranks = 5}),
                         [](const auto& kind) { return kind.param.name; });

}  // namespace
}  // namespace tandem::testing
