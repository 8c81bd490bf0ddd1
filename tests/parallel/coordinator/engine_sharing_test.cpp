#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "tests/parallel/coordinator/engine_suite.h"
#include "tests/support/collecting_sink.h"
#include "tests/support/fake_model.h"
#include "tests/support/random.h"

namespace tandem::testing {
namespace {

using parallel::EngineRequest;
using parallel::FinishReason;

/// Engines whose requests share pages: every token must be the one it would be alone.
class EngineSharingTest : public EngineSuite {};

/// Requests whose beginnings are known, of earlier ones with their answers, or new.
class ForkingPrompts {
 public:
  explicit ForkingPrompts(uint64_t seed) : random_(seed) {}

  std::vector<int32_t> Next() {
    std::vector<int32_t> prompt;
    if (!past_.empty() && random_.Below(4) != 0) {
      prompt = past_[random_.Below(past_.size())];
      if (random_.Below(2) == 0) prompt.resize(1 + random_.Below(prompt.size()));
    }
    const auto more = RandomPrompt(random_, random_.Below(3) == 0 ? 1 : random_.Below(90));
    prompt.insert(prompt.end(), more.begin(), more.end());
    if (prompt.empty()) prompt = {1};
    prompt.resize(std::min<size_t>(prompt.size(), 300));
    return prompt;
  }
  void Ended(std::vector<int32_t> prompt, const std::vector<int32_t>& answer) {
    prompt.insert(prompt.end(), answer.begin(), answer.end());
    past_.push_back(std::move(prompt));
    if (past_.size() > 8) past_.erase(past_.begin());
  }
  SplitMix& random() { return random_; }

 private:
  SplitMix random_;
  std::vector<std::vector<int32_t>> past_;
};

TEST_P(EngineSharingTest, SharedPagesInASmallPoolChangeNoToken) {
  // As many blocks as the longest request needs, and a few more: pages are shared, copied, evicted
  // and taken away while requests come, fork, and are cancelled at any time.
  const int most_heads[] = {0, 3, 2, 1, 1, 1};  // of a rank, by rank count
  LocalCluster::Options options;
  options.rank.max_running = 6;
  options.rank.prefill_chunk = 40;
  options.rank.kv_sequence_tokens = 700;
  options.rank.kv_memory = 320'000 * most_heads[GetParam().ranks];
  options.rank.spill_memory = GetParam().spills ? 150'000 * most_heads[GetParam().ranks] : 0;
  Start(std::move(options));
  ForkingPrompts prompts(21);
  constexpr int kRounds = 15;
  constexpr size_t kAtOnce = 14;
  int32_t reused = 0;
  int32_t preemptions = 0;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<CollectingSink> sinks(kAtOnce);
    std::vector<EngineRequest> requests;
    for (size_t r = 0; r < kAtOnce; ++r) {
      requests.push_back(Greedy(prompts.Next(), static_cast<int32_t>(prompts.random().Below(50))));
      EngineRequest& request = requests.back();
      request.tenant = prompts.random().Below(8) == 0 ? 1 : 0;
      request.client = prompts.random().Below(3);
      request.priority = prompts.random().Below(6) == 0 ? 1 : 0;
      request.reuse = prompts.random().Below(8) != 0;
      const auto id = Submit(request, sinks[r]);
      if (prompts.random().Below(6) == 0) {
        std::this_thread::sleep_for(std::chrono::microseconds(prompts.random().Below(3000)));
        engine().Cancel(id);
      }
    }
    for (size_t r = 0; r < kAtOnce; ++r) {
      const auto finish = sinks[r].WaitForFinish();
      ASSERT_TRUE(finish.has_value()) << "round " << round << " request " << r;
      const auto alone = FakeAnswer(FakeConfig(), requests[r].prompt, requests[r].max_tokens);
      const auto tokens = sinks[r].tokens();
      ASSERT_LE(tokens.size(), alone.size());
      ASSERT_TRUE(std::equal(tokens.begin(), tokens.end(), alone.begin()))
          << "round " << round << " request " << r;
      if (finish->reason != FinishReason::kCancelled) {
        EXPECT_EQ(finish->reason, FinishReason::kLength) << finish->status;
        EXPECT_EQ(tokens.size(), alone.size());
        // After a preemption, it may have found what others computed meanwhile.
        if (finish->usage.preemptions == 0) {
          EXPECT_GE(finish->usage.reused_tokens + finish->usage.computed_tokens,
                    finish->usage.prompt_tokens);
        }
      }
      reused += finish->usage.reused_tokens;
      preemptions += finish->usage.preemptions;
      prompts.Ended(requests[r].prompt, tokens);
    }
  }
  EXPECT_GT(reused, 500);
  EXPECT_GT(preemptions, 0);
  const auto status = engine().Status();
  ASSERT_TRUE(status.ok());
  const parallel::HostTierStatus& tier = status->host_tier;
  EXPECT_EQ(tier.bytes_limit > 0, GetParam().spills);
  EXPECT_EQ(tier.spilled > 0, GetParam().spills);
  EXPECT_EQ(tier.returned > 0, GetParam().spills);
  EXPECT_EQ(tier.bytes, 0) << "nobody waits";
}

/// Requests that make room for others of higher priority. Returns what all of them computed.
int32_t ComputedOf(const EngineKind& kind, int64_t spill_memory) {
  const int most_heads[] = {0, 3, 2, 1, 1, 1};
  LocalCluster::Options options;
  options.rank.max_running = 6;
  options.rank.prefill_chunk = 64;
  options.rank.kv_sequence_tokens = 700;
  options.rank.kv_memory = 220'000 * most_heads[kind.ranks];
  options.rank.spill_memory = spill_memory * most_heads[kind.ranks];
  options.model = [make = FakeShards(kind.ranks, kind.lazy)](int rank) {
    std::unique_ptr<core::Model> model = make(rank);
    static_cast<FakeModel&>(*model).OnForward([](uint64_t) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      return absl::OkStatus();
    });
    return model;
  };
  const EngineUnderTest under_test = MakeEngine(kind, std::move(options));
  SplitMix random(8);
  std::vector<CollectingSink> sinks(5);
  std::vector<EngineRequest> requests;
  for (size_t r = 0; r < sinks.size(); ++r) {
    const bool low = r < 2;
    // Those of low priority have begun by then.
    if (r == 2) std::this_thread::sleep_for(std::chrono::milliseconds(150));
    requests.push_back(Greedy(RandomPrompt(random, low ? 150 : 250), low ? 180 : 20));
    requests.back().priority = low ? 0 : 1;
    EXPECT_TRUE(under_test.engine->Submit(requests.back(), sinks[r].Sink()).ok());
  }
  int32_t computed = 0;
  int32_t preemptions = 0;
  for (size_t r = 0; r < sinks.size(); ++r) {
    const auto finish = sinks[r].WaitForFinish();
    EXPECT_TRUE(finish.has_value());
    if (!finish) continue;
    EXPECT_EQ(sinks[r].tokens(),
              FakeAnswer(FakeConfig(), requests[r].prompt, requests[r].max_tokens));
    computed += finish->usage.computed_tokens;
    preemptions += finish->usage.preemptions;
  }
  EXPECT_GT(preemptions, 0);
  return computed;
}

TEST_P(EngineSharingTest, PagesThatComeBackAreNotComputedAgain) {
  if (!GetParam().spills) return;
  const int32_t without = ComputedOf(GetParam(), 0);
  const int32_t with = ComputedOf(GetParam(), 220'000);
  EXPECT_LT(with, without);
  // But for what a step had computed for a request that was preempted meanwhile.
  EXPECT_NEAR(with, 2 * 329 + 3 * 269, 20);
}

TEST_P(EngineSharingTest, PenaltiesOfAnAnswerCountRightAfterAPreemption) {
  // Two tokens are likely, and how often the answer has them decides between them.
  SplitMix random(31);
  std::vector<EngineRequest> requests;
  std::vector<std::vector<int32_t>> expected;
  const EngineUnderTest alone = MakeEngine({.name = "Alone", .ranks = 1}, {});
  for (size_t r = 0; r < 5; ++r) {
    const bool low = r < 2;
    requests.push_back(Greedy(RandomPrompt(random, low ? 150 : 250), low ? 180 : 40));
    EngineRequest& request = requests.back();
    request.sampling.logit_bias = {{17, 1000.0F}, {18, 1000.0F}};
    request.sampling.presence_penalty = 0.25F;
    request.sampling.frequency_penalty = 0.5F;
    request.priority = low ? 0 : 1;
    CollectingSink sink;
    ASSERT_TRUE(alone.engine->Submit(request, sink.Sink()).ok());
    ASSERT_TRUE(sink.WaitForFinish().has_value());
    expected.push_back(sink.tokens());
    EXPECT_GT(std::count(expected[r].begin(), expected[r].end(), 17), 10);
    EXPECT_GT(std::count(expected[r].begin(), expected[r].end(), 18), 10);
  }
  const int most_heads[] = {0, 3, 2, 1, 1, 1};
  LocalCluster::Options options;
  options.rank.max_running = 6;
  options.rank.kv_sequence_tokens = 700;
  options.rank.kv_memory = 220'000 * most_heads[GetParam().ranks];
  options.rank.spill_memory = GetParam().spills ? 220'000 * most_heads[GetParam().ranks] : 0;
  StartSlowly(std::move(options));
  std::vector<CollectingSink> sinks(requests.size());
  int32_t preemptions = 0;
  for (size_t r = 0; r < requests.size(); ++r) {
    // Those of low priority have begun by then.
    if (r == 2) std::this_thread::sleep_for(std::chrono::milliseconds(100));
    Submit(requests[r], sinks[r]);
  }
  for (size_t r = 0; r < requests.size(); ++r) {
    const auto finish = sinks[r].WaitForFinish();
    ASSERT_TRUE(finish.has_value());
    EXPECT_EQ(sinks[r].tokens(), expected[r]) << r;
    preemptions += finish->usage.preemptions;
  }
  EXPECT_GT(preemptions, 0);
}

TEST_P(EngineSharingTest, TheSecondTurnSaysWhatItReused) {
  Start();
  SplitMix random(4);
  auto prompt = RandomPrompt(random, 200);
  CollectingSink first;
  Submit(Greedy(prompt, 30), first);
  ASSERT_TRUE(first.WaitForFinish().has_value());
  EXPECT_EQ(first.WaitForFinish()->usage.reused_tokens, 0);
  EXPECT_EQ(first.WaitForFinish()->usage.reuse_limit, parallel::ReuseLimit::kNothing);
  EXPECT_EQ(first.WaitForFinish()->usage.computed_tokens, 229);
  const auto answer = first.tokens();
  prompt.insert(prompt.end(), answer.begin(), answer.end());
  const auto more = RandomPrompt(random, 10);
  prompt.insert(prompt.end(), more.begin(), more.end());
  CollectingSink second;
  Submit(Greedy(prompt, 5), second);
  const auto finish = second.WaitForFinish();
  ASSERT_TRUE(finish.has_value());
  EXPECT_EQ(second.tokens(), FakeAnswer(FakeConfig(), prompt, 5));
  EXPECT_EQ(finish->usage.reused_tokens, 229);
  EXPECT_EQ(finish->usage.computed_tokens, 11 + 4);
  EXPECT_EQ(finish->usage.reuse_limit, parallel::ReuseLimit::kDiffers);
  const auto status = engine().Status();
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(status->prompt_tokens, 440U);
  EXPECT_EQ(status->reused_tokens, 229U);
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, EngineSharingTest,
    ::testing::Values(
        EngineKind{.name = "Threads1", .ranks = 1}, EngineKind{.name = "Threads2", .ranks = 2},
        EngineKind{.name = "Threads3", .ranks = 3},
        EngineKind{.name = "Spill1", .ranks = 1, .spills = true},
        EngineKind{.name = "Spill2", .ranks = 2, .spills = true},
        EngineKind{.name = "Spill3", .ranks = 3, .spills = true},
        EngineKind{.name = "LazySpill1", .ranks = 1, .spills = true, .lazy = true},
        EngineKind{.name = "LazySpill3", .ranks = 3, .spills = true, .lazy = true},
        EngineKind{
            .name = "ZmqRemote2", .ranks = 2, .zmq_plans = true, .remote = true, .spills = true}),
    [](const auto& kind) { return kind.param.name; });

}  // namespace
}  // namespace tandem::testing
