// Steps that begin while the device computes the one before.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "core/base/status.h"
#include "tests/parallel/coordinator/engine_suite.h"
#include "tests/support/fake_model.h"

namespace tandem::testing {
namespace {

using parallel::FinishReason;
using ::testing::HasSubstr;

class EngineAhead : public ::testing::TestWithParam<int> {
 protected:
  EngineUnderTest Start(int32_t failing_token = -1) {
    LocalCluster::Options options;
    options.rank.prefill_chunk = 40;
    options.model = [this, failing_token, make = FakeShards(GetParam())](int rank) {
      auto model = make(rank);
      auto& fake = static_cast<FakeModel&>(*model);
      fake.PassAhead(most_[static_cast<size_t>(rank)]);
      fake.FailOnToken(failing_token);
      return model;
    };
    return MakeEngine({.name = "", .ranks = GetParam()}, std::move(options));
  }

  std::vector<size_t> most_ = std::vector<size_t>(3);
};

TEST_P(EngineAhead, ChunksOfPromptsDoNotWaitForOneAnother) {
  {
    const EngineUnderTest under_test = Start();
    SplitMix random(3);
    for (const size_t length : {size_t{300}, size_t{40}, size_t{81}}) {
      std::vector<CollectingSink> sinks(3);
      std::vector<parallel::EngineRequest> requests;
      for (CollectingSink& sink : sinks) {
        requests.push_back(Greedy(RandomPrompt(random, length + requests.size()), 20));
        ASSERT_TRUE(under_test.engine->Submit(requests.back(), sink.Sink()).ok());
      }
      for (size_t i = 0; i < sinks.size(); ++i) {
        ASSERT_TRUE(sinks[i].WaitForFinish().has_value());
        EXPECT_EQ(sinks[i].tokens(), FakeAnswer(FakeConfig(), requests[i].prompt, 20));
      }
    }
  }
  // Where ranks meet, they meet in one step at a time.
  EXPECT_EQ(most_[0], GetParam() == 1 ? 2U : 0U);
}

TEST_P(EngineAhead, AFailureIsOfTheStepThatHadIt) {
  const EngineUnderTest under_test = Start(200);
  for (const size_t at : {size_t{5}, size_t{47}, size_t{130}}) {
    std::vector<int32_t> prompt(150, 3);
    prompt[at] = 200;
    CollectingSink bad;
    CollectingSink good;
    ASSERT_TRUE(under_test.engine->Submit(Greedy(prompt, 5), bad.Sink()).ok());
    const std::vector<int32_t> calm = {1, 2, 3};
    ASSERT_TRUE(under_test.engine->Submit(Greedy(calm, 12), good.Sink()).ok());
    ASSERT_TRUE(bad.WaitForFinish().has_value());
    EXPECT_EQ(bad.WaitForFinish()->reason, FinishReason::kFailed);
    EXPECT_THAT(Message(bad.WaitForFinish()->status),
                HasSubstr("numeric failure at position " + std::to_string(at) + ":"));
    ASSERT_TRUE(good.WaitForFinish().has_value());
    EXPECT_EQ(good.tokens(), FakeAnswer(FakeConfig(), calm, 12));
  }
}

TEST_P(EngineAhead, RequestsMayBeCancelledAndTheEngineStoppedAmidAPrompt) {
  SplitMix random(5);
  for (int round = 0; round < 6; ++round) {
    const EngineUnderTest under_test = Start();
    CollectingSink cancelled;
    CollectingSink stopped;
    const auto id =
        under_test.engine->Submit(Greedy(RandomPrompt(random, 400), 5), cancelled.Sink());
    ASSERT_TRUE(id.ok());
    ASSERT_TRUE(
        under_test.engine->Submit(Greedy(RandomPrompt(random, 400), 90), stopped.Sink()).ok());
    if (round % 2 == 0) under_test.engine->Cancel(*id);
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, EngineAhead, ::testing::Values(1, 2, 3));

}  // namespace
}  // namespace tandem::testing
