#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "core/base/retry_after.h"
#include "tests/parallel/coordinator/engine_suite.h"
#include "tests/support/collecting_sink.h"
#include "tests/support/fake_model.h"
#include "tests/support/random.h"

namespace tandem::testing {
namespace {

using parallel::EngineRequest;
using parallel::FinishReason;
using ::testing::HasSubstr;

/// What every kind of engine does.
class EngineTest : public EngineSuite {};

TEST_P(EngineTest, AnswersAsTheModelSays) {
  Start();
  SplitMix random(1);
  const auto prompt = RandomPrompt(random, 150);
  CollectingSink sink;
  Submit(Greedy(prompt, 70), sink);
  const auto finish = sink.WaitForFinish();
  ASSERT_TRUE(finish.has_value());
  EXPECT_EQ(finish->reason, FinishReason::kLength) << finish->status;
  EXPECT_EQ(sink.tokens(), FakeAnswer(FakeConfig(), prompt, 70));
  EXPECT_EQ(finish->usage.prompt_tokens, 150);
  EXPECT_EQ(finish->usage.completion_tokens, 70);
  EXPECT_GT(finish->usage.decode_seconds, 0);
  EXPECT_FALSE(sink.called_late());
}

TEST_P(EngineTest, ManyRequestsGetWhatEachWouldGetAlone) {
  // Random arrivals, cancels and chunk sizes; more requests than slots.
  LocalCluster::Options options;
  options.rank.max_running = 5;
  options.rank.prefill_chunk = 37;
  Start(options);
  SplitMix random(7);
  constexpr size_t kRequests = 40;
  std::vector<CollectingSink> sinks(kRequests);
  std::vector<EngineRequest> requests;
  std::vector<bool> cancelled(kRequests, false);
  for (size_t r = 0; r < kRequests; ++r) {
    requests.push_back(Greedy(RandomPrompt(random, 1 + random.Below(250)),
                              static_cast<int32_t>(random.Below(60))));
    const auto id = Submit(requests[r], sinks[r]);
    if (random.Below(4) == 0) {
      cancelled[r] = true;
      std::this_thread::sleep_for(std::chrono::microseconds(random.Below(3000)));
      engine().Cancel(id);
    }
    if (random.Below(3) == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  for (size_t r = 0; r < kRequests; ++r) {
    const auto finish = sinks[r].WaitForFinish();
    ASSERT_TRUE(finish.has_value()) << "request " << r;
    const auto alone = FakeAnswer(FakeConfig(), requests[r].prompt, requests[r].max_tokens);
    const auto tokens = sinks[r].tokens();
    if (finish->reason == FinishReason::kCancelled) {
      EXPECT_TRUE(cancelled[r]);
      ASSERT_LE(tokens.size(), alone.size());
      EXPECT_TRUE(std::equal(tokens.begin(), tokens.end(), alone.begin())) << "request " << r;
    } else {
      EXPECT_EQ(finish->reason, FinishReason::kLength) << finish->status;
      EXPECT_EQ(tokens, alone) << "request " << r;
    }
    EXPECT_FALSE(sinks[r].called_late());
  }
  EXPECT_TRUE(engine().Health().ok()) << engine().Health();
  // Every slot and block is free again.
  for (int tries = 0;; ++tries) {
    const auto status = engine().Status();
    ASSERT_TRUE(status.ok()) << status.status();
    if (status->running == 0 && status->waiting == 0 && status->blocks_used == 0) {
      EXPECT_GT(status->blocks_cached, 0);
      break;
    }
    ASSERT_LT(tries, 200) << status->blocks_used << " blocks stay in use";
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

TEST_P(EngineTest, SamplesTheSameWhateverRunsBeside) {
  Start();
  SplitMix random(3);
  EngineRequest request = Greedy(RandomPrompt(random, 90), 30);
  request.sampling.temperature = 0.8F;
  request.sampling.top_p = 0.95F;
  request.sampling.repetition_penalty = 1.3F;
  request.sampling.presence_penalty = 0.5F;
  request.sampling.frequency_penalty = 0.25F;
  request.sampling.seed = 42;
  CollectingSink alone;
  Submit(request, alone);
  ASSERT_TRUE(alone.WaitForFinish().has_value());
  ASSERT_EQ(alone.tokens().size(), 30U);

  std::vector<CollectingSink> crowd(6);
  for (auto& sink : crowd) Submit(Greedy(RandomPrompt(random, 100), 40), sink);
  CollectingSink among;
  Submit(request, among);
  request.sampling.top_k = 5;
  request.sampling.seed = 43;
  CollectingSink other;
  Submit(request, other);
  ASSERT_TRUE(among.WaitForFinish().has_value());
  ASSERT_TRUE(other.WaitForFinish().has_value());
  EXPECT_EQ(among.tokens(), alone.tokens());
  EXPECT_NE(other.tokens(), alone.tokens());
  for (auto& sink : crowd) EXPECT_TRUE(sink.WaitForFinish().has_value());
}

TEST_P(EngineTest, WithholdsEndTokensAtFirst) {
  // Almost every token ends the answer, and one of them is always the likeliest.
  for (const bool speculate : {false, true}) {
    LocalCluster::Options options;
    options.rank.speculate = speculate;
    Start(options);
    SplitMix random(6);
    for (const float temperature : {0.0F, 0.9F}) {
      EngineRequest request = Greedy(RandomPrompt(random, 60), 100);
      request.sampling.temperature = temperature;
      request.sampling.seed = 4;
      for (int32_t token = 10; token < 211; ++token) request.stop_tokens.push_back(token);
      request.sampling.logit_bias = {{200, 1000.0F}};
      request.sampling.min_tokens = 70;
      request.sampling.end_tokens = request.stop_tokens;
      CollectingSink sink;
      Submit(request, sink);
      const auto finish = sink.WaitForFinish();
      ASSERT_TRUE(finish.has_value());
      EXPECT_EQ(finish->reason, FinishReason::kStop) << finish->status;
      ASSERT_EQ(sink.tokens().size(), 70U) << "token 200 comes as soon as it may";
      for (const int32_t token : sink.tokens()) EXPECT_LT(token, 10);
    }
    under_test_.between.reset();
    under_test_.cluster.reset();
  }
}

TEST_P(EngineTest, GivesPromptLogits) {
  LocalCluster::Options options;
  options.rank.prefill_chunk = 16;
  Start(options);
  SplitMix random(5);
  const auto prompt = RandomPrompt(random, 70);
  EngineRequest request = Greedy(prompt, 0);
  request.want_prompt_logits = true;
  CollectingSink sink;
  Submit(request, sink);
  const auto finish = sink.WaitForFinish();
  ASSERT_TRUE(finish.has_value());
  EXPECT_EQ(finish->reason, FinishReason::kLength);
  EXPECT_TRUE(sink.tokens().empty());
  const auto logits = sink.logits();
  ASSERT_EQ(logits.size(), prompt.size());
  for (size_t p = 0; p < prompt.size(); ++p) {
    EXPECT_EQ(logits[p].first, static_cast<int64_t>(p));
    EXPECT_EQ(logits[p].second,
              FakeLogits(FakeConfig(), {prompt.begin(), prompt.begin() + static_cast<int>(p) + 1}));
  }
}

TEST_P(EngineTest, StopTokenEndsTheAnswerUnreported) {
  Start();
  const std::vector<int32_t> prompt = {1, 2, 3};
  const auto answer = FakeAnswer(FakeConfig(), prompt, 20);
  EngineRequest request = Greedy(prompt, 20);
  request.stop_tokens = {answer[10]};
  const auto first = std::find(answer.begin(), answer.end(), answer[10]);
  CollectingSink sink;
  Submit(request, sink);
  const auto finish = sink.WaitForFinish();
  ASSERT_TRUE(finish.has_value());
  EXPECT_EQ(finish->reason, FinishReason::kStop);
  EXPECT_EQ(sink.tokens(), std::vector<int32_t>(answer.begin(), first));
}

TEST_P(EngineTest, FullContextEndsWithLength) {
  Start();
  SplitMix random(9);
  const auto context = static_cast<size_t>(FakeConfig().context);
  const auto prompt = RandomPrompt(random, context - 5);
  CollectingSink sink;
  Submit(Greedy(prompt, 1000), sink);
  const auto finish = sink.WaitForFinish();
  ASSERT_TRUE(finish.has_value());
  EXPECT_EQ(finish->reason, FinishReason::kLength);
  EXPECT_EQ(sink.tokens(), FakeAnswer(FakeConfig(), prompt, 5));

  CollectingSink full;
  Submit(Greedy(RandomPrompt(random, context), 3), full);
  ASSERT_TRUE(full.WaitForFinish().has_value());
  EXPECT_EQ(full.WaitForFinish()->reason, FinishReason::kLength);
  EXPECT_TRUE(full.tokens().empty());

  const absl::Status longer = SubmitError(Greedy(RandomPrompt(random, context + 1), 1));
  EXPECT_EQ(longer.code(), absl::StatusCode::kOutOfRange);
  EXPECT_THAT(Message(longer), HasSubstr("701"));
  EXPECT_THAT(Message(longer), HasSubstr("700"));
}

TEST_P(EngineTest, RefusesBadRequests) {
  Start();
  EXPECT_EQ(SubmitError(Greedy({}, 1)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(SubmitError(Greedy({1, 211}, 1)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(SubmitError(Greedy({-1}, 1)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(SubmitError(Greedy({1}, -1)).code(), absl::StatusCode::kInvalidArgument);
  EngineRequest least = Greedy({1}, 1);
  least.sampling.min_tokens = -1;
  EXPECT_EQ(SubmitError(least).code(), absl::StatusCode::kInvalidArgument);
  EngineRequest bias = Greedy({1}, 1);
  bias.sampling.logit_bias = {{500, 1.0F}};
  EXPECT_EQ(SubmitError(bias).code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(EngineTest, FullQueueIsResourceExhausted) {
  LocalCluster::Options options;
  options.rank.max_running = 1;
  options.rank.max_waiting = 2;
  StartSlowly(options);
  std::vector<CollectingSink> sinks(3);
  std::vector<parallel::RequestId> ids;
  for (auto& sink : sinks) ids.push_back(Submit(Greedy({1, 2}, 600), sink));
  const absl::Status full = SubmitError(Greedy({1}, 1));
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_GE(RetryAfter(full).value_or(0), 1) << full;
  EXPECT_LE(RetryAfter(full).value_or(0), 60) << full;
  for (const auto id : ids) engine().Cancel(id);
  for (auto& sink : sinks) {
    ASSERT_TRUE(sink.WaitForFinish().has_value());
    EXPECT_EQ(sink.WaitForFinish()->reason, FinishReason::kCancelled);
  }
  CollectingSink next;
  Submit(Greedy({1}, 1), next);
  EXPECT_TRUE(next.WaitForFinish().has_value());
  engine().Cancel(ids[0]);  // long gone
  engine().Cancel(123456);  // never there
}

TEST_P(EngineTest, NumericFailureFailsThatRequestAlone) {
  LocalCluster::Options options;
  options.model = [make = FakeShards(GetParam().ranks)](int rank) {
    auto model = make(rank);
    static_cast<FakeModel&>(*model).FailOnToken(200);
    static_cast<FakeModel&>(*model).BreakLogitsOnToken(201);
    return model;
  };
  Start(options);
  std::vector<int32_t> calm = {1, 2, 3};
  const auto answer = FakeAnswer(FakeConfig(), calm, 12);
  for (const int32_t token : answer) ASSERT_LT(token, 200) << "choose another prompt";
  CollectingSink good, bad_sum, bad_logit;
  Submit(Greedy(calm, 12), good);
  Submit(Greedy({4, 200, 5}, 12), bad_sum);
  Submit(Greedy({4, 5, 201}, 12), bad_logit);
  ASSERT_TRUE(good.WaitForFinish().has_value());
  EXPECT_EQ(good.tokens(), answer);
  ASSERT_TRUE(bad_sum.WaitForFinish().has_value());
  EXPECT_EQ(bad_sum.WaitForFinish()->reason, FinishReason::kFailed);
  EXPECT_THAT(Message(bad_sum.WaitForFinish()->status),
              HasSubstr("numeric failure at position 1: a sum was not finite or out of range"));
  ASSERT_TRUE(bad_logit.WaitForFinish().has_value());
  EXPECT_EQ(bad_logit.WaitForFinish()->reason, FinishReason::kFailed);
  EXPECT_THAT(Message(bad_logit.WaitForFinish()->status), HasSubstr("position 2: a logit"));
  EXPECT_TRUE(engine().Health().ok());
}

TEST_P(EngineTest, StatusTellsRanksAndCounts) {
  Start();
  CollectingSink sink;
  Submit(Greedy({1, 2, 3}, 10), sink);
  ASSERT_TRUE(sink.WaitForFinish().has_value());
  const auto status = engine().Status();
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_EQ(status->ranks.size(), static_cast<size_t>(GetParam().ranks));
  EXPECT_EQ(status->ranks.back().rank, GetParam().ranks - 1);
  EXPECT_EQ(status->ranks.back().weight_bytes, 1000);
  EXPECT_FALSE(status->ranks.back().host.empty());
  EXPECT_EQ(status->ranks.back().device, "cpu");
  EXPECT_GT(status->blocks_total, 0);
  EXPECT_GE(status->steps, 9U);
}

TEST_P(EngineTest, StatusTellsTheTimeOfEachRankInReductions) {
  Start();
  std::vector<uint64_t> before(static_cast<size_t>(GetParam().ranks), 0);
  for (int request = 0; request < 2; ++request) {
    CollectingSink sink;
    Submit(Greedy({1, 2, 3, request}, 10), sink);
    ASSERT_TRUE(sink.WaitForFinish().has_value());
    // Followers tell of a step when they have done it, which may be after rank 0.
    for (size_t rank = 0; rank < before.size(); ++rank) {
      const auto grew = [&] {
        const auto status = engine().Status();
        return status.ok() && status->ranks[rank].reduce_nanoseconds > before[rank];
      };
      if (before.size() == 1) {
        EXPECT_EQ(engine().Status()->ranks[0].reduce_nanoseconds, 0U);
        continue;
      }
      for (int i = 0; i < 1000 && !grew(); ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
      ASSERT_TRUE(grew()) << "rank " << rank;
      before[rank] = engine().Status()->ranks[rank].reduce_nanoseconds;
    }
  }
}

TEST_P(EngineTest, SmallPoolLimitsTheContextNotTheAnswer) {
  // A head's full-attention block has 16 KiB, its window block 8 KiB: three of each are one
  // sequence of 192 positions, and a fourth of each does not fit.
  const int most_heads[] = {0, 3, 2, 1, 1, 1};  // of a rank, by rank count
  LocalCluster::Options options;
  options.rank.max_running = 4;
  options.rank.prefill_chunk = 32;
  options.rank.kv_memory = 90'000 * most_heads[GetParam().ranks];
  Start(options);
  SplitMix random(11);
  std::vector<CollectingSink> sinks(8);
  std::vector<std::vector<int32_t>> prompts;
  for (auto& sink : sinks) {
    prompts.push_back(RandomPrompt(random, 90 + random.Below(50)));
    Submit(Greedy(prompts.back(), 50), sink);
  }
  for (size_t r = 0; r < sinks.size(); ++r) {
    const auto finish = sinks[r].WaitForFinish();
    ASSERT_TRUE(finish.has_value());
    EXPECT_EQ(sinks[r].tokens(), FakeAnswer(FakeConfig(), prompts[r], 50));
  }
  const absl::Status longer = SubmitError(Greedy(RandomPrompt(random, 193), 1));
  EXPECT_EQ(longer.code(), absl::StatusCode::kOutOfRange) << longer;
  EXPECT_THAT(Message(longer), HasSubstr("192"));
}

/// Kinds with a rank that can die while rank 0 lives.
class EngineOfRanksTest : public EngineTest {};

TEST_P(EngineOfRanksTest, DeadRankAnswersEveryRequestByName) {
  LocalCluster::Options options;
  const int victim = GetParam().ranks - 1;
  const auto all_submitted = std::make_shared<std::atomic<bool>>(false);
  options.model = [make = FakeShards(GetParam().ranks), victim, all_submitted](int rank) {
    auto model = make(rank);
    if (rank == victim) {
      static_cast<FakeModel&>(*model).OnForward([all_submitted](uint64_t step) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return step < 20 || !*all_submitted ? absl::OkStatus()
                                            : Internal("the test ends this rank");
      });
    }
    return model;
  };
  options.rank.max_running = 2;
  for (int r = 0; r < GetParam().ranks; ++r) options.world.hosts.push_back(fmt::format("n{}", r));
  Start(options);
  std::vector<CollectingSink> sinks(5);
  for (auto& sink : sinks) Submit(Greedy({1, 2, 3}, 600), sink);
  *all_submitted = true;
  const std::string name = fmt::format("rank {} on host n{}", victim, victim);
  for (auto& sink : sinks) {
    const auto finish = sink.WaitForFinish();
    ASSERT_TRUE(finish.has_value());
    EXPECT_EQ(finish->reason, FinishReason::kFailed);
    EXPECT_EQ(finish->status.code(), absl::StatusCode::kUnavailable) << finish->status;
    EXPECT_THAT(Message(finish->status), HasSubstr(name));
  }
  // Over a link, the requests' ends arrive before the engine's.
  for (int tries = 0; tries < 200 && engine().Health().ok(); ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(engine().Health().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(engine().Health()), HasSubstr(name));
  EXPECT_EQ(SubmitError(Greedy({1}, 1)).code(), absl::StatusCode::kUnavailable);
}

TEST_P(EngineTest, StopsWithRequestsOpen) {
  StartSlowly();
  std::vector<CollectingSink> sinks(4);
  for (auto& sink : sinks) Submit(Greedy({1, 2, 3}, 600), sink);
  under_test_.between.reset();
  under_test_.cluster.reset();
  for (auto& sink : sinks) {
    const auto finish = sink.WaitForFinish();
    ASSERT_TRUE(finish.has_value());
    EXPECT_EQ(finish->status.code(), absl::StatusCode::kUnavailable);
    EXPECT_FALSE(sink.called_late());
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, EngineTest, ::testing::ValuesIn(AllEngineKinds()),
                         [](const auto& kind) { return kind.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Kinds, EngineOfRanksTest,
    ::testing::Values(EngineKind{.name = "Threads2", .ranks = 2},
                      EngineKind{.name = "Threads3", .ranks = 3},
                      EngineKind{.name = "Threads5", .ranks = 5},
                      EngineKind{.name = "Zmq3", .ranks = 3, .zmq_plans = true},
                      EngineKind{
                          .name = "ZmqRemote2", .ranks = 2, .zmq_plans = true, .remote = true}),
    [](const auto& kind) { return kind.param.name; });

}  // namespace
}  // namespace tandem::testing
