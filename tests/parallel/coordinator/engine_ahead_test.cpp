// Steps that begin while the device computes the one before.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
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
  EngineUnderTest Start(int32_t failing_token = -1, bool ahead = true) {
    LocalCluster::Options options;
    options.rank.prefill_chunk = 40;
    options.model = [this, failing_token, ahead, make = FakeShards(GetParam())](int rank) {
      auto model = make(rank);
      auto& fake = static_cast<FakeModel&>(*model);
      if (ahead) fake.PassAhead(most_[static_cast<size_t>(rank)]);
      fake.FailOnToken(failing_token);
      return model;
    };
    return MakeEngine({.name = "", .ranks = GetParam(), .zmq_plans = GetParam() == 2},
                      std::move(options));
  }

  std::vector<size_t> most_ = std::vector<size_t>(3);
};

TEST_P(EngineAhead, StepsDoNotWaitForOneAnother) {
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
  EXPECT_EQ(most_[0], 2U);
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
    CollectingSink cancelled;
    CollectingSink stopped;
    const EngineUnderTest under_test = Start();
    const auto id =
        under_test.engine->Submit(Greedy(RandomPrompt(random, 400), 5), cancelled.Sink());
    ASSERT_TRUE(id.ok());
    ASSERT_TRUE(
        under_test.engine->Submit(Greedy(RandomPrompt(random, 400), 90), stopped.Sink()).ok());
    if (round % 2 == 0) under_test.engine->Cancel(*id);
  }
}

/// One step is computed for nothing when a sequence ends with a token that only the host knows; its
/// slot and its pages go to others meanwhile.
TEST_P(EngineAhead, SequencesEndAndOthersTakeTheirPlace) {
  const EngineUnderTest under_test = Start();
  SplitMix random(7);
  for (int round = 0; round < 5; ++round) {
    std::vector<CollectingSink> sinks(12);
    std::vector<std::vector<int32_t>> expected;
    for (size_t i = 0; i < sinks.size(); ++i) {
      const auto length = static_cast<int>(1 + random.Next() % 30);
      parallel::EngineRequest request =
          Greedy(RandomPrompt(random, 1 + random.Next() % 90), length);
      std::vector<int32_t> answer = FakeAnswer(FakeConfig(), request.prompt, length);
      if (i % 2 == 0) {
        request.stop_tokens = {answer[random.Next() % answer.size()]};
        answer.erase(std::find(answer.begin(), answer.end(), request.stop_tokens[0]), answer.end());
      }
      if (i % 3 == 0) request.sampling.repetition_penalty = 1.0F + 1e-6F * (i % 2);
      expected.push_back(answer);
      ASSERT_TRUE(under_test.engine->Submit(request, sinks[i].Sink()).ok());
    }
    for (size_t i = 0; i < sinks.size(); ++i) {
      ASSERT_TRUE(sinks[i].WaitForFinish().has_value());
      EXPECT_TRUE(sinks[i].WaitForFinish()->status.ok()) << sinks[i].WaitForFinish()->status;
      EXPECT_EQ(sinks[i].tokens(), expected[i]) << "request " << i;
    }
  }
  EXPECT_EQ(most_[0], 2U);
}

/// Steps of requests whose tokens the host chooses are waited for, and those of others beside them.
TEST_P(EngineAhead, TokensThatTheHostChoosesAreTheSame) {
  std::vector<std::vector<int32_t>> answers[2];
  for (const bool ahead : {false, true}) {
    const EngineUnderTest under_test = Start(-1, ahead);
    SplitMix random(9);
    for (int round = 0; round < 3; ++round) {
      std::vector<CollectingSink> sinks(6);
      for (size_t i = 0; i < sinks.size(); ++i) {
        const auto length = static_cast<int>(3 + i * 5);
        parallel::EngineRequest request = Greedy(RandomPrompt(random, 10 + i), length);
        if (i % 3 == 1) {
          request.sampling.temperature = 0.8F;
          request.sampling.seed = i;
        }
        if (i % 3 == 2) request.sampling.repetition_penalty = 1.3F;
        ASSERT_TRUE(under_test.engine->Submit(request, sinks[i].Sink()).ok());
      }
      for (CollectingSink& sink : sinks) {
        ASSERT_TRUE(sink.WaitForFinish().has_value());
        answers[ahead ? 1 : 0].push_back(sink.tokens());
      }
    }
  }
  EXPECT_EQ(answers[0], answers[1]);
}

TEST_P(EngineAhead, AnswersThatFailEndWithTheirOwnFailure) {
  const EngineUnderTest under_test = Start(137);
  SplitMix random(11);
  int failures = 0;
  for (int round = 0; round < 12; ++round) {
    const std::vector<int32_t> prompt = RandomPrompt(random, 20);
    if (std::find(prompt.begin(), prompt.end(), 137) != prompt.end()) continue;
    const std::vector<int32_t> expected = FakeAnswer(FakeConfig(), prompt, 60);
    const auto at = std::find(expected.begin(), expected.end(), 137);
    CollectingSink sink;
    ASSERT_TRUE(under_test.engine->Submit(Greedy(prompt, 60), sink.Sink()).ok());
    ASSERT_TRUE(sink.WaitForFinish().has_value());
    // The step that reads the token fails: it was given out by then, if another one comes behind.
    const bool fails = expected.end() - at > 1;
    failures += fails ? 1 : 0;
    EXPECT_EQ(sink.WaitForFinish()->status.ok(), !fails);
    const std::vector<int32_t> given(expected.begin(), fails ? at + 1 : expected.end());
    EXPECT_EQ(sink.tokens(), given);
  }
  EXPECT_GT(failures, 0);
}

INSTANTIATE_TEST_SUITE_P(Ranks, EngineAhead, ::testing::Values(1, 2, 3));

}  // namespace
}  // namespace tandem::testing
