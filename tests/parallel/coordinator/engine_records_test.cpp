#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "kv_store/records/record.h"
#include "kv_store/tiers/memory_tier.h"
#include "tests/parallel/coordinator/engine_suite.h"
#include "tests/support/changed_bytes.h"
#include "tests/support/collecting_sink.h"
#include "tests/support/fake_model.h"
#include "tests/support/faulty_tier.h"
#include "tests/support/random.h"

namespace tandem::testing {
namespace {

using parallel::EngineRequest;
using parallel::Finish;
using parallel::FinishReason;
using parallel::ReuseLimit;
using std::chrono::milliseconds;

constexpr milliseconds kPatience{20'000};

/// Conversations that go on in another engine, of another number of ranks, over the same tier. What
/// FakeModel says depends on every page it sees, so a wrong one would be seen in the tokens.
class EngineRecordsTest : public ::testing::TestWithParam<EngineKind> {
 protected:
  EngineRecordsTest() {
    options_.rank.prefill_chunk = 50;
    options_.rank.records.tier = &tier_;
    options_.rank.records.fingerprint = {1, 2, 3};
    options_.rank.records.fetch_deadline = kPatience;
    options_.rank.records.least_fetch_deadline = kPatience;  // computing takes no time here
    options_.rank.records.flush_deadline = kPatience;
  }

  EngineUnderTest Start(const EngineKind& kind) { return MakeEngine(kind, options_); }
  EngineUnderTest Start() { return Start(GetParam()); }

  Finish Run(parallel::Engine& engine, const EngineRequest& request,
             std::vector<int32_t>* answer = nullptr) {
    CollectingSink sink;
    const auto id = engine.Submit(request, sink.Sink());
    EXPECT_TRUE(id.ok()) << id.status();
    const auto finish = sink.WaitForFinish();
    EXPECT_TRUE(finish.has_value());
    EXPECT_EQ(sink.tokens(), FakeAnswer(FakeConfig(), request.prompt, request.max_tokens));
    if (answer != nullptr) *answer = sink.tokens();
    return finish.value_or(Finish());
  }

  EngineRequest Durable(std::vector<int32_t> prompt, int32_t max_tokens) {
    EngineRequest request = Greedy(std::move(prompt), max_tokens);
    request.durable = true;
    return request;
  }

  /// One turn in an engine of its own; the next turn's prompt.
  std::vector<int32_t> FirstTurn(const EngineKind& kind, size_t prompt, int32_t answered,
                                 size_t more, uint64_t tenant = 0) {
    auto under_test = Start(kind);
    EngineRequest request = Durable(RandomPrompt(random_, prompt), answered);
    request.tenant = tenant;
    std::vector<int32_t> answer;
    const Finish finish = Run(*under_test.engine, request, &answer);
    EXPECT_TRUE(finish.saved);
    std::vector<int32_t> next = request.prompt;
    next.insert(next.end(), answer.begin(), answer.end());
    const auto added = RandomPrompt(random_, more);
    next.insert(next.end(), added.begin(), added.end());
    return next;
  }

  kv_store::MemoryTier memory_{kv_store::TierLimits{}};
  FaultyTier tier_{memory_};
  LocalCluster::Options options_;
  SplitMix random_{17};
};

TEST_P(EngineRecordsTest, TheNextTurnReusesWhatAnotherEngineSaved) {
  for (const int ranks : {1, 2, 3, 5}) {
    const auto next = FirstTurn({.name = "", .ranks = ranks}, 200, 30, 40);
    auto under_test = Start();
    const Finish finish = Run(*under_test.engine, Greedy(next, 20));
    // All that was computed: the prompt and the answer but its last token.
    EXPECT_EQ(finish.usage.reused_tokens, 229) << ranks << " ranks";
    EXPECT_EQ(finish.usage.reused_from,
              (parallel::ReusedFrom{.device = 0, .host = 229, .disk = 0, .remote = 0}));
    EXPECT_EQ(finish.usage.reuse_limit, ReuseLimit::kDiffers);
    EXPECT_EQ(finish.usage.computed_tokens, 270 - 229 + 19);
    // What was restored is a prefix like any other.
    const Finish again = Run(*under_test.engine, Greedy(next, 20));
    EXPECT_EQ(again.usage.reused_from.device, 269U);
    EXPECT_EQ(again.usage.reuse_limit, ReuseLimit::kNone);
    const auto status = under_test.engine->Status();
    ASSERT_TRUE(status.ok());
    EXPECT_TRUE(status->keeps_records);
    EXPECT_EQ(status->reused_from.host, 229U);
    EXPECT_EQ(status->reused_from.device, 269U);
  }
}

TEST_P(EngineRecordsTest, EightTurnsEachInANewEngine) {
  std::vector<int32_t> prompt = RandomPrompt(random_, 70);
  int64_t saved = 0;
  for (int turn = 0; turn < 8; ++turn) {
    auto under_test = Start({.name = "", .ranks = 1 + turn % 3});
    std::vector<int32_t> answer;
    const Finish finish = Run(*under_test.engine, Durable(prompt, 20), &answer);
    EXPECT_TRUE(finish.saved);
    EXPECT_EQ(finish.usage.reused_tokens, saved) << "turn " << turn;
    saved = static_cast<int64_t>(prompt.size()) + 19;
    prompt.insert(prompt.end(), answer.begin(), answer.end());
    const auto more = RandomPrompt(random_, 45);
    prompt.insert(prompt.end(), more.begin(), more.end());
  }
}

TEST_P(EngineRecordsTest, SaysFromWhichTier) {
  const auto next = FirstTurn(GetParam(), 130, 10, 80);
  tier_.from = kv_store::TierKind::kDisk;
  auto under_test = Start();
  const Finish finish = Run(*under_test.engine, Greedy(next, 5));
  EXPECT_EQ(finish.usage.reused_from.disk, 139U);
}

TEST_P(EngineRecordsTest, DamagedAndMissingRecordsOfOneHeadEndThePrefix) {
  const auto next = FirstTurn(GetParam(), 400, 3, 30);
  // Blocks 0 to 5 and a tail of 18; head 1 of block 3 in the full-attention group.
  kv_store::BlockHash hash = kv_store::TenantHash(0);
  for (size_t i = 0; i < 4; ++i) {
    hash = kv_store::ChainHash(hash, std::span(next).subspan(i * 64, 64));
  }
  const auto key =
      kv_store::RecordKeyOf({1, 2, 3}, {.block = hash, .tokens = 64, .kv_head = 1, .group = 0});
  for (const bool missing : {false, true}) {
    tier_.on_get = [&](const kv_store::RecordKey& asked, auto& found) {
      if (asked != key) return;
      ASSERT_TRUE(found.has_value());
      if (missing) {
        found.reset();
      } else {
        testing::Flip(found->bytes, found->bytes.size() / 2, std::byte{4});
      }
    };
    auto under_test = Start();
    const Finish finish = Run(*under_test.engine, Greedy(next, 5));
    // The window group's blocks for the shorter prefix are found by looking again.
    EXPECT_EQ(finish.usage.reused_tokens, 192);
    EXPECT_EQ(finish.usage.reuse_limit, ReuseLimit::kDamaged);
    const auto status = under_test.engine->Status();
    ASSERT_TRUE(status.ok());
    EXPECT_EQ(status->records.damaged > 0, !missing);
  }
}

TEST_P(EngineRecordsTest, AMissingRecordBeforeOthersIsTold) {
  const auto next = FirstTurn(GetParam(), 400, 3, 30);
  kv_store::BlockHash hash = kv_store::TenantHash(0);
  for (size_t i = 0; i < 4; ++i) {
    hash = kv_store::ChainHash(hash, std::span(next).subspan(i * 64, 64));
  }
  const auto key =
      kv_store::RecordKeyOf({1, 2, 3}, {.block = hash, .tokens = 64, .kv_head = 0, .group = 0});
  tier_.hides = [&](const kv_store::RecordKey& asked) { return asked == key; };
  auto under_test = Start();
  const Finish finish = Run(*under_test.engine, Greedy(next, 5));
  EXPECT_EQ(finish.usage.reused_tokens, 192);
  EXPECT_EQ(finish.usage.reuse_limit, ReuseLimit::kDamaged);
}

TEST_P(EngineRecordsTest, SwappedRecordsAreNotBelieved) {
  const auto next = FirstTurn(GetParam(), 300, 3, 30);
  std::vector<kv_store::FoundRecord> seen;
  std::mutex mutex;
  tier_.on_get = [&](const kv_store::RecordKey&, auto& found) {
    const std::lock_guard lock(mutex);
    if (!found) return;
    seen.push_back(*found);
    found = seen[seen.size() / 2];
  };
  auto under_test = Start();
  const Finish finish = Run(*under_test.engine, Greedy(next, 5));
  EXPECT_LE(finish.usage.reused_tokens, 64);
}

TEST_P(EngineRecordsTest, TenantsAreApart) {
  const auto next = FirstTurn(GetParam(), 200, 5, 20, 7);
  auto under_test = Start();
  EngineRequest request = Greedy(next, 5);
  request.tenant = 8;
  EXPECT_EQ(Run(*under_test.engine, request).usage.reused_tokens, 0);
  request.tenant = 7;
  EXPECT_EQ(Run(*under_test.engine, request).usage.reused_tokens, 204);
}

TEST_P(EngineRecordsTest, AnotherFingerprintFindsNothing) {
  const auto next = FirstTurn(GetParam(), 200, 5, 20);
  options_.rank.records.fingerprint = {1, 2, 4};
  auto under_test = Start();
  const Finish finish = Run(*under_test.engine, Greedy(next, 5));
  EXPECT_EQ(finish.usage.reused_tokens, 0);
  EXPECT_EQ(finish.usage.reuse_limit, ReuseLimit::kNothing);
}

TEST_P(EngineRecordsTest, ALateTierIsAMissAndIsNotAskedAgainUntilItAnswers) {
  const auto next = FirstTurn(GetParam(), 300, 5, 20);
  options_.rank.records.fetch_deadline = milliseconds(50);
  options_.rank.records.least_fetch_deadline = milliseconds(50);
  for (auto* held : {&tier_.holds_exists, &tier_.holds_get}) {
    auto under_test = Start();
    *held = true;
    const Finish late = Run(*under_test.engine, Greedy(next, 5));
    EXPECT_EQ(late.usage.reused_tokens, 0);
    EXPECT_EQ(late.usage.reuse_limit, ReuseLimit::kLate);
    // Others go on, and do not wait for the deadline as well.
    const Finish other = Run(*under_test.engine, Greedy(RandomPrompt(random_, 200), 5));
    EXPECT_EQ(other.usage.reuse_limit, ReuseLimit::kNothing);
    const auto status = under_test.engine->Status();
    ASSERT_TRUE(status.ok());
    EXPECT_EQ(status->late_fetches, 1U);
    *held = false;
  }
}

TEST_P(EngineRecordsTest, WhoWaitsForAFetchHoldsUpNobody) {
  const auto next = FirstTurn(GetParam(), 300, 5, 20);
  tier_.holds_get = true;
  auto under_test = Start();
  CollectingSink slow, quick;
  ASSERT_TRUE(under_test.engine->Submit(Greedy(next, 5), slow.Sink()).ok());
  ASSERT_TRUE(under_test.engine->Submit(Greedy({1, 2, 3}, 10), quick.Sink()).ok());
  ASSERT_TRUE(quick.WaitForFinish().has_value());
  EXPECT_TRUE(slow.tokens().empty());
  tier_.holds_get = false;
  ASSERT_TRUE(slow.WaitForFinish().has_value());
  EXPECT_EQ(slow.WaitForFinish()->usage.reused_tokens, 304);
  EXPECT_EQ(slow.tokens(), FakeAnswer(FakeConfig(), next, 5));
}

TEST_P(EngineRecordsTest, ACancelDuringAFetchLeavesNothingBehind) {
  const auto next = FirstTurn(GetParam(), 300, 5, 20);
  tier_.get_takes = milliseconds(100);
  auto under_test = Start();
  for (const int wait : {0, 1, 20, 60, 120}) {
    CollectingSink sink;
    const auto id = under_test.engine->Submit(Greedy(next, 50), sink.Sink());
    ASSERT_TRUE(id.ok());
    std::this_thread::sleep_for(milliseconds(wait));
    under_test.engine->Cancel(*id);
    ASSERT_TRUE(sink.WaitForFinish().has_value());
    const auto status = under_test.engine->Status();
    ASSERT_TRUE(status.ok());
  }
  tier_.get_takes = milliseconds(0);
  const Finish finish = Run(*under_test.engine, Greedy(next, 5));
  EXPECT_GE(finish.usage.reused_tokens, 304);
  EXPECT_TRUE(under_test.engine->Health().ok()) << under_test.engine->Health();
}

TEST_P(EngineRecordsTest, ManyWithTheSameBeginningFetchItOnce) {
  const auto next = FirstTurn(GetParam(), 300, 5, 20);
  tier_.get_takes = milliseconds(30);
  const int gets = tier_.gets;
  auto under_test = Start();
  std::vector<CollectingSink> sinks(12);
  for (size_t i = 0; i < sinks.size(); ++i) {
    auto prompt = next;
    prompt.push_back(static_cast<int32_t>(i));
    ASSERT_TRUE(under_test.engine->Submit(Greedy(prompt, 5), sinks[i].Sink()).ok());
  }
  for (size_t i = 0; i < sinks.size(); ++i) {
    ASSERT_TRUE(sinks[i].WaitForFinish().has_value());
    EXPECT_GE(sinks[i].WaitForFinish()->usage.reused_tokens, 304);
    auto prompt = next;
    prompt.push_back(static_cast<int32_t>(i));
    EXPECT_EQ(sinks[i].tokens(), FakeAnswer(FakeConfig(), prompt, 5));
  }
  EXPECT_EQ(tier_.gets - gets, GetParam().ranks);
}

TEST_P(EngineRecordsTest, ADurableEndWaitsForTheFlushAndTokensDoNot) {
  tier_.holds_flush = true;
  auto under_test = Start();
  CollectingSink durable, other;
  ASSERT_TRUE(
      under_test.engine->Submit(Durable(RandomPrompt(random_, 100), 5), durable.Sink()).ok());
  ASSERT_TRUE(durable.WaitForTokens(5));
  ASSERT_TRUE(under_test.engine->Submit(Greedy({1, 2, 3}, 5), other.Sink()).ok());
  ASSERT_TRUE(other.WaitForFinish().has_value());
  EXPECT_FALSE(other.WaitForFinish()->saved);
  EXPECT_FALSE(durable.finished());
  tier_.holds_flush = false;
  ASSERT_TRUE(durable.WaitForFinish().has_value());
  EXPECT_TRUE(durable.WaitForFinish()->saved);
  EXPECT_EQ(durable.WaitForFinish()->reason, FinishReason::kLength);
}

TEST_P(EngineRecordsTest, WhoIsDoneAndCancelledWaitsForNoFlush) {
  tier_.holds_flush = true;
  auto under_test = Start();
  CollectingSink sink;
  const auto id = under_test.engine->Submit(Durable(RandomPrompt(random_, 100), 5), sink.Sink());
  ASSERT_TRUE(id.ok());
  ASSERT_TRUE(sink.WaitForTokens(5));
  under_test.engine->Cancel(*id);
  ASSERT_TRUE(sink.WaitForFinish().has_value());
  EXPECT_FALSE(sink.WaitForFinish()->saved);
  tier_.holds_flush = false;
}

TEST_P(EngineRecordsTest, ATierInTroubleIsToldOf) {
  auto under_test = Start();
  tier_.refuses = true;
  const Finish refused = Run(*under_test.engine, Durable(RandomPrompt(random_, 100), 5));
  EXPECT_FALSE(refused.saved);
  tier_.refuses = false;
  EXPECT_TRUE(Run(*under_test.engine, Durable(RandomPrompt(random_, 100), 5)).saved);
  const auto status = under_test.engine->Status();
  ASSERT_TRUE(status.ok());
  EXPECT_GT(status->records.refused, 0U);
  EXPECT_EQ(status->not_durable, 1U);
}

TEST_P(EngineRecordsTest, AFlushThatIsLateIsSaidToBe) {
  options_.rank.records.flush_deadline = milliseconds(50);
  tier_.holds_put = true;
  auto under_test = Start();
  EXPECT_FALSE(Run(*under_test.engine, Durable(RandomPrompt(random_, 100), 5)).saved);
  tier_.holds_put = false;
}

TEST_P(EngineRecordsTest, WhatTheTierCannotTakeIsDroppedAndCounted) {
  options_.rank.records.save_bytes = 70'000;
  tier_.put_takes = milliseconds(200);
  auto under_test = Start();
  const Finish finish = Run(*under_test.engine, Durable(RandomPrompt(random_, 600), 5));
  EXPECT_FALSE(finish.saved);
  const auto status = under_test.engine->Status();
  ASSERT_TRUE(status.ok());
  EXPECT_GT(status->records.dropped, 0U);
}

TEST_P(EngineRecordsTest, AFetchLargerThanItsLimitBringsAPart) {
  const auto next = FirstTurn(GetParam(), 500, 5, 20);
  const core::KvGeometry whole{.groups = core::LayerGroups(FakeConfig()),
                               .layers = FakeConfig().layers,
                               .kv_heads = FakeConfig().kv_heads,
                               .head_dim = FakeConfig().head_dim};
  const int64_t most_heads[] = {0, 3, 2, 1, 1, 1};  // of a rank, by rank count
  options_.rank.records.fetch_bytes =
      5 * most_heads[GetParam().ranks] * kv_store::RecordBytes(whole, 0, 64);
  auto under_test = Start();
  const Finish finish = Run(*under_test.engine, Greedy(next, 5));
  EXPECT_GT(finish.usage.reused_tokens, 64);
  EXPECT_LT(finish.usage.reused_tokens, 504);
  EXPECT_EQ(finish.usage.reused_tokens % 64, 0);
}

TEST_P(EngineRecordsTest, RandomConversationsInASmallPoolOverASmallTier) {
  // Pages and records come and go, requests are cancelled and preempted, engines are thrown away.
  const int most_heads[] = {0, 3, 2, 1, 1, 1};  // of a rank, by rank count
  kv_store::MemoryTier small({.bytes = 3'000'000});
  FaultyTier faulty(small);
  std::atomic<uint64_t> asked = 0;
  faulty.on_get = [&](const kv_store::RecordKey&, auto& found) {
    const uint64_t now = ++asked;
    if (found && now % 199 == 0) testing::Flip(found->bytes, now % found->bytes.size());
    if (now % 301 == 0) found.reset();
  };
  options_.rank.max_running = 6;
  options_.rank.prefill_chunk = 40;
  options_.rank.kv_sequence_tokens = 700;
  options_.rank.records.tier = &faulty;
  options_.rank.records.fetch_bytes = 800'000;
  std::vector<std::vector<int32_t>> past;
  uint64_t restored = 0;
  int preemptions = 0;
  for (int life = 0; life < 6; ++life) {
    const int ranks = 1 + static_cast<int>(random_.Below(3));
    EngineKind kind = GetParam();
    if (!kind.zmq_plans) kind.ranks = ranks;
    options_.rank.kv_memory = 320'000 * most_heads[kind.ranks];
    auto under_test = Start(kind);
    for (int round = 0; round < 4; ++round) {
      std::vector<CollectingSink> sinks(12);
      std::vector<EngineRequest> requests;
      for (auto& sink : sinks) {
        std::vector<int32_t> prompt;
        if (!past.empty() && random_.Below(5) != 0) prompt = past[random_.Below(past.size())];
        if (!prompt.empty() && random_.Below(4) == 0)
          prompt.resize(1 + random_.Below(prompt.size()));
        const auto more = RandomPrompt(random_, 1 + random_.Below(120));
        prompt.insert(prompt.end(), more.begin(), more.end());
        prompt.resize(std::min<size_t>(prompt.size(), 500));
        requests.push_back(Greedy(prompt, static_cast<int32_t>(random_.Below(60))));
        EngineRequest& request = requests.back();
        request.durable = random_.Below(2) == 0;
        request.tenant = random_.Below(6) == 0 ? 1 : 0;
        request.priority = random_.Below(6) == 0 ? 1 : 0;
        request.reuse = random_.Below(10) != 0;
        const auto id = under_test.engine->Submit(request, sink.Sink());
        ASSERT_TRUE(id.ok());
        if (random_.Below(6) == 0) {
          std::this_thread::sleep_for(std::chrono::microseconds(random_.Below(3000)));
          under_test.engine->Cancel(*id);
        }
      }
      for (size_t r = 0; r < sinks.size(); ++r) {
        const auto finish = sinks[r].WaitForFinish();
        ASSERT_TRUE(finish.has_value());
        ASSERT_NE(finish->reason, FinishReason::kFailed) << finish->status;
        const auto alone = FakeAnswer(FakeConfig(), requests[r].prompt, requests[r].max_tokens);
        const auto tokens = sinks[r].tokens();
        ASSERT_LE(tokens.size(), alone.size());
        ASSERT_TRUE(std::equal(tokens.begin(), tokens.end(), alone.begin()));
        if (finish->reason != FinishReason::kCancelled) {
          EXPECT_EQ(tokens.size(), alone.size());
        }
        EXPECT_EQ(finish->usage.reused_from.total(),
                  static_cast<uint64_t>(finish->usage.reused_tokens));
        restored += finish->usage.reused_from.host;
        preemptions += finish->usage.preemptions;
        std::vector<int32_t> history = requests[r].prompt;
        history.insert(history.end(), tokens.begin(), tokens.end());
        past.push_back(std::move(history));
        if (past.size() > 10) past.erase(past.begin());
      }
    }
    EXPECT_TRUE(under_test.engine->Health().ok()) << under_test.engine->Health();
  }
  EXPECT_GT(restored, 2000U);
  EXPECT_GT(preemptions, 0);
}

TEST(EngineWithoutATier, SavesNothingAndSaysSo) {
  LocalCluster::Options options;
  const auto under_test = MakeEngine({.name = "", .ranks = 2}, options);
  EngineRequest request = Greedy({1, 2, 3}, 5);
  request.durable = true;
  CollectingSink sink;
  ASSERT_TRUE(under_test.engine->Submit(request, sink.Sink()).ok());
  ASSERT_TRUE(sink.WaitForFinish().has_value());
  EXPECT_FALSE(sink.WaitForFinish()->saved);
  EXPECT_FALSE(under_test.engine->Status()->keeps_records);
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, EngineRecordsTest,
    ::testing::Values(
        EngineKind{.name = "Threads1", .ranks = 1}, EngineKind{.name = "Threads2", .ranks = 2},
        EngineKind{.name = "Threads3", .ranks = 3}, EngineKind{.name = "Threads5", .ranks = 5},
        EngineKind{.name = "Zmq3", .ranks = 3, .zmq_plans = true},
        EngineKind{.name = "ZmqRemote2", .ranks = 2, .zmq_plans = true, .remote = true},
        EngineKind{.name = "Lazy1", .ranks = 1, .lazy = true},
        EngineKind{.name = "Lazy3", .ranks = 3, .lazy = true}),
    [](const auto& kind) { return kind.param.name; });

}  // namespace
}  // namespace tandem::testing
