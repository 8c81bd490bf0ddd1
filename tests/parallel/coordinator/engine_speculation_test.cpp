#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "tests/parallel/coordinator/engine_suite.h"
#include "tests/support/collecting_sink.h"
#include "tests/support/fake_model.h"
#include "tests/support/logprobs.h"
#include "tests/support/random.h"

namespace tandem::testing {
namespace {

using parallel::EngineRequest;
using parallel::FinishReason;
using ::testing::HasSubstr;

/// What an engine does besides answering, and without changing the answer: guesses ahead, and
/// log-probabilities.
class EngineSpeculationTest : public EngineSuite {};

/// An answer that repeats itself a lot: of two tokens.
EngineRequest OfTwoTokens(std::vector<int32_t> prompt, int32_t max_tokens) {
  EngineRequest request = Greedy(std::move(prompt), max_tokens);
  request.sampling.logit_bias = {{17, 1000.0F}, {18, 1000.0F}};
  return request;
}

TEST_P(EngineSpeculationTest, SpeculationGivesTheSameTokens) {
  SplitMix random(21);
  std::vector<EngineRequest> requests;
  for (int r = 0; r < 12; ++r) {
    requests.push_back(OfTwoTokens(RandomPrompt(random, 1 + random.Below(150)),
                                   static_cast<int32_t>(random.Below(200))));
    EngineRequest& request = requests.back();
    if (r % 3 == 1) request.sampling.temperature = 0.8F;
    if (r % 3 == 2) request.sampling.repetition_penalty = 1.1F;
    if (r % 4 == 3) request.sampling.frequency_penalty = 0.75F;  // one, then the other
    if (r % 4 == 1) request.stop_tokens = {static_cast<int32_t>(random.Below(211))};
    if (r % 4 == 2) request.sampling.logit_bias.push_back({19, 995.0F});
    if (r % 5 == 0) request.logprobs = 3;
    request.sampling.seed = static_cast<uint64_t>(r);
  }
  std::vector<std::vector<int32_t>> expected;
  std::vector<std::vector<std::pair<int64_t, parallel::TokenLogprobs>>> logprobs;
  for (const bool speculate : {false, true}) {
    LocalCluster::Options options;
    options.rank.speculate = speculate;
    options.rank.max_running = 3;
    options.rank.prefill_chunk = 40;
    Start(options);
    std::vector<CollectingSink> sinks(requests.size());
    for (size_t r = 0; r < requests.size(); ++r) {
      Submit(requests[r], sinks[r]);
      // Some alone, when drafts are cheap, some together.
      if (r < 4) sinks[r].WaitForFinish();
    }
    int32_t drafted = 0, accepted = 0;
    for (size_t r = 0; r < requests.size(); ++r) {
      const auto finish = sinks[r].WaitForFinish();
      ASSERT_TRUE(finish.has_value());
      EXPECT_TRUE(finish->status.ok()) << finish->status;
      drafted += finish->usage.drafted_tokens;
      accepted += finish->usage.accepted_tokens;
      EXPECT_FALSE(sinks[r].called_late());
      if (!speculate) {
        expected.push_back(sinks[r].tokens());
        logprobs.push_back(sinks[r].logprobs());
      } else {
        EXPECT_EQ(sinks[r].tokens(), expected[r]) << "request " << r;
        EXPECT_EQ(sinks[r].logprobs(), logprobs[r]) << "request " << r;
      }
    }
    EXPECT_EQ(drafted > 0, speculate);
    EXPECT_EQ(accepted > 0, speculate);
    EXPECT_LE(accepted, drafted);
    const auto status = engine().Status();
    ASSERT_TRUE(status.ok()) << status.status();
    EXPECT_EQ(status->drafted_tokens, static_cast<uint64_t>(drafted));
    EXPECT_EQ(status->accepted_tokens, static_cast<uint64_t>(accepted));
    under_test_.between.reset();
    under_test_.cluster.reset();
  }
}

TEST_P(EngineSpeculationTest, ARequestMayRefuseSpeculation) {
  LocalCluster::Options options;
  options.rank.speculate = true;
  Start(options);
  EngineRequest request = OfTwoTokens({1, 2, 3}, 100);
  request.speculate = false;
  CollectingSink sink;
  Submit(request, sink);
  const auto finish = sink.WaitForFinish();
  ASSERT_TRUE(finish.has_value());
  EXPECT_EQ(finish->usage.drafted_tokens, 0);
  EXPECT_EQ(sink.tokens().size(), 100U);
}

TEST_P(EngineSpeculationTest, GivesLogprobsOfAnswerAndPrompt) {
  LocalCluster::Options options;
  options.rank.prefill_chunk = 16;
  Start(options);
  SplitMix random(22);
  const auto prompt = RandomPrompt(random, 70);
  for (const bool of_prompt : {false, true}) {
    // What is chosen does not change what the model finds likely.
    EngineRequest request = OfTwoTokens(prompt, 20);
    request.logprobs = 5;
    request.prompt_logprobs = of_prompt;
    CollectingSink sink;
    Submit(request, sink);
    const auto finish = sink.WaitForFinish();
    ASSERT_TRUE(finish.has_value());
    ASSERT_TRUE(finish->status.ok()) << finish->status;
    std::vector<int32_t> tokens = prompt;
    const auto answer = sink.tokens();
    tokens.insert(tokens.end(), answer.begin(), answer.end());
    const auto found = sink.logprobs();
    const size_t first = of_prompt ? 1 : prompt.size();
    ASSERT_EQ(found.size(), tokens.size() - first);
    for (size_t i = first; i < tokens.size(); ++i) {
      const std::vector<int32_t> before(tokens.begin(), tokens.begin() + static_cast<int64_t>(i));
      const auto expected = LogprobsOf(FakeLogits(FakeConfig(), before), tokens[i], 5);
      EXPECT_EQ(found[i - first].first, static_cast<int64_t>(i));
      EXPECT_EQ(found[i - first].second, *expected) << "position " << i;
    }
  }
}

TEST_P(EngineSpeculationTest, PromptLogprobsWithoutAnAnswerAndRefusals) {
  Start();
  EngineRequest request = Greedy({5, 6, 7, 8}, 0);
  request.prompt_logprobs = true;
  CollectingSink sink;
  Submit(request, sink);
  ASSERT_TRUE(sink.WaitForFinish().has_value());
  ASSERT_EQ(sink.logprobs().size(), 3U);
  EXPECT_EQ(sink.logprobs()[2].second.chosen.token, 8);
  EXPECT_TRUE(sink.logprobs()[2].second.top.empty());
  request.logprobs = 65;
  EXPECT_EQ(SubmitError(request).code(), absl::StatusCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(Kinds, EngineSpeculationTest, ::testing::ValuesIn(AllEngineKinds()),
                         [](const auto& kind) { return kind.param.name; });

}  // namespace
}  // namespace tandem::testing
