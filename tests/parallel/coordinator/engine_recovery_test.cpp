#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/parallel/coordinator/engine_suite.h"
#include "tests/support/collecting_sink.h"
#include "tests/support/fake_model.h"
#include "tests/support/random.h"

namespace tandem::testing {
namespace {

using parallel::EngineRequest;
using parallel::FinishReason;
using ::testing::HasSubstr;

/// Engines go on with an answer that another one has begun (EngineRequest::answered).
class EngineRecoveryTest : public EngineSuite {
 protected:
  struct Answer {
    std::vector<int32_t> tokens;
    std::vector<std::pair<int64_t, parallel::TokenLogprobs>> logprobs;
    parallel::Finish finish;
  };
  Answer Ask(EngineRequest request) {
    CollectingSink sink;
    Submit(std::move(request), sink);
    const auto finish = sink.WaitForFinish();
    EXPECT_TRUE(finish.has_value());
    return {.tokens = sink.tokens(),
            .logprobs = sink.logprobs(),
            .finish = finish.value_or(parallel::Finish{})};
  }
};

/// Requests whose tokens depend on all that a sampler knows.
std::vector<EngineRequest> AllWaysToSample(SplitMix& random) {
  std::vector<EngineRequest> requests;
  for (int way = 0; way < 8; ++way) {
    EngineRequest request = Greedy(RandomPrompt(random, 30 + random.Below(60)), 24);
    if (way % 2 == 1) request.sampling.temperature = 0.9F;
    if (way == 2) request.sampling.repetition_penalty = 1.4F;
    if (way == 3) request.sampling.presence_penalty = 0.7F;
    if (way == 4) request.sampling.frequency_penalty = 0.6F;
    if (way == 5) request.sampling.top_p = 0.8F;
    if (way == 6) request.logprobs = 2;
    if (way == 7) {
      for (int32_t token = 100; token < 211; ++token) request.stop_tokens.push_back(token);
      request.sampling.min_tokens = 12;
      request.sampling.end_tokens = request.stop_tokens;
    }
    request.sampling.seed = static_cast<uint64_t>(way) + 5;
    requests.push_back(std::move(request));
  }
  return requests;
}

TEST_P(EngineRecoveryTest, GoesOnWithTheTokensThatItWouldHaveHad) {
  for (const bool speculate : {false, true}) {
    LocalCluster::Options options;
    options.rank.prefill_chunk = 20;
    options.rank.speculate = speculate;
    Start(options);
    SplitMix random(81);
    for (const EngineRequest& request : AllWaysToSample(random)) {
      const Answer whole = Ask(request);
      const auto length = static_cast<int64_t>(whole.tokens.size());
      ASSERT_GT(length, 0);
      for (int64_t begun : {int64_t{1}, int64_t{2}, length / 2, length - 1, length}) {
        EngineRequest rest = request;
        rest.answered.assign(whole.tokens.begin(), whole.tokens.begin() + begun);
        for (const bool reuse : {true, false}) {
          rest.reuse = reuse;
          const Answer answer = Ask(rest);
          EXPECT_EQ(answer.tokens,
                    std::vector<int32_t>(whole.tokens.begin() + begun, whole.tokens.end()))
              << "from " << begun << " of " << length;
          EXPECT_EQ(answer.finish.reason, whole.finish.reason) << answer.finish.status;
          EXPECT_EQ(answer.finish.usage.prompt_tokens, whole.finish.usage.prompt_tokens);
          EXPECT_EQ(answer.finish.usage.completion_tokens, whole.finish.usage.completion_tokens);
          EXPECT_LE(answer.finish.usage.reused_tokens, answer.finish.usage.prompt_tokens);
          if (request.logprobs) {
            EXPECT_EQ(answer.logprobs, decltype(answer.logprobs)(whole.logprobs.begin() + begun,
                                                                 whole.logprobs.end()));
          }
        }
      }
    }
    under_test_.between.reset();
    under_test_.cluster.reset();
  }
}

TEST_P(EngineRecoveryTest, AnAnswerThatWasCompleteIsDoneAtOnce) {
  Start();
  SplitMix random(82);
  EngineRequest request = Greedy(RandomPrompt(random, 70), 9);
  request.answered = Ask(request).tokens;
  ASSERT_EQ(request.answered.size(), 9U);
  const Answer answer = Ask(request);
  EXPECT_TRUE(answer.tokens.empty());
  EXPECT_EQ(answer.finish.reason, FinishReason::kLength);
}

TEST_P(EngineRecoveryTest, TheContextEndsItWhereItWouldHave) {
  Start();
  SplitMix random(83);
  const int32_t context = FakeConfig().context;
  EngineRequest request = Greedy(RandomPrompt(random, static_cast<size_t>(context) - 10), 100);
  const Answer whole = Ask(request);
  ASSERT_EQ(whole.tokens.size(), 10U);
  request.answered.assign(whole.tokens.begin(), whole.tokens.begin() + 4);
  EXPECT_EQ(Ask(request).tokens,
            std::vector<int32_t>(whole.tokens.begin() + 4, whole.tokens.end()));
  request.answered = whole.tokens;
  EXPECT_EQ(Ask(request).finish.reason, FinishReason::kLength);
}

TEST_P(EngineRecoveryTest, RefusesAnswersThatCannotBe) {
  Start();
  EngineRequest request = Greedy({1, 2, 3}, 2);
  request.answered = {4, 5, 6};
  EXPECT_THAT(Message(SubmitError(request)), HasSubstr("max_tokens is 2"));
  request.answered = {100000};
  EXPECT_THAT(Message(SubmitError(request)), HasSubstr("answered token 100000"));
  request = Greedy({1}, 1 << 20);
  request.answered.assign(static_cast<size_t>(FakeConfig().context), 1);
  EXPECT_EQ(SubmitError(request).code(), absl::StatusCode::kOutOfRange);
}

INSTANTIATE_TEST_SUITE_P(Kinds, EngineRecoveryTest, ::testing::ValuesIn(AllEngineKinds()),
                         [](const auto& kind) { return kind.param.name; });

}  // namespace
}  // namespace tandem::testing
