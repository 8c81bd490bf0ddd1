#include "parallel/engine/recovering_engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "tests/support/collecting_sink.h"
#include "tests/support/fake_engine.h"
#include "tests/support/random.h"

namespace tandem::testing {
namespace {

using parallel::EngineRequest;
using parallel::FinishReason;
using parallel::RecoveringEngine;
using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// An answer that says which prompt it is of, and never repeats a token.
std::vector<int32_t> Answer(const std::vector<int32_t>& prompt) {
  std::vector<int32_t> answer;
  for (int32_t i = 0; i < 2000; ++i) answer.push_back(prompt.front() * 10000 + i);
  return answer;
}

std::shared_ptr<FakeEngine> NewLife(milliseconds step = milliseconds(1)) {
  return std::make_shared<FakeEngine>(Answer, step);
}

EngineRequest Of(int32_t prompt, int32_t max_tokens) {
  EngineRequest request;
  request.prompt = {prompt, 2, 3};
  request.max_tokens = max_tokens;
  return request;
}

std::vector<int32_t> Whole(int32_t prompt, int32_t max_tokens) {
  std::vector<int32_t> answer = Answer({prompt});
  answer.resize(static_cast<size_t>(max_tokens));
  return answer;
}

absl::Status Death(int which = 1) { return Unavailable("rank {} on host n{} died", which, which); }

class RecoveringEngineTest : public ::testing::Test {
 protected:
  void Begin(const std::shared_ptr<FakeEngine>& life) {
    life_ = life;
    engine_.Begin(life, ++epoch_);
  }
  /// As a supervisor does it.
  void Replace(milliseconds without = milliseconds(0)) {
    life_->Die(Death());
    engine_.Lose(Death());
    std::this_thread::sleep_for(without);
    Begin(NewLife());
  }
  parallel::RequestId Submit(EngineRequest request, CollectingSink& sink) {
    const auto id = engine_.Submit(std::move(request), sink.Sink());
    EXPECT_TRUE(id.ok()) << id.status();
    return id.value_or(0);
  }

  uint64_t epoch_ = 0;
  RecoveringEngine engine_{RecoveringEngine::Options{.most_open = 8}};
  std::shared_ptr<FakeEngine> life_;
};

TEST_F(RecoveringEngineTest, RequestsGoOnInTheNextLife) {
  Begin(NewLife());
  std::vector<CollectingSink> sinks(5);
  for (int32_t r = 0; r < 5; ++r) Submit(Of(r + 1, 120), sinks[static_cast<size_t>(r)]);
  for (int deaths = 0; deaths < 4; ++deaths) {
    ASSERT_TRUE(sinks[0].WaitForTokens(static_cast<size_t>(deaths) * 20 + 5));
    EXPECT_TRUE(engine_.GaveTokens(epoch_));
    EXPECT_FALSE(engine_.GaveTokens(epoch_ + 1));
    Replace(milliseconds(deaths));
  }
  for (int32_t r = 0; r < 5; ++r) {
    CollectingSink& sink = sinks[static_cast<size_t>(r)];
    const auto finish = sink.WaitForFinish();
    ASSERT_TRUE(finish.has_value());
    EXPECT_EQ(finish->reason, FinishReason::kLength) << finish->status;
    EXPECT_EQ(sink.tokens(), Whole(r + 1, 120));
    EXPECT_EQ(finish->usage.completion_tokens, 120);
    EXPECT_EQ(finish->usage.prompt_tokens, 3);
    EXPECT_FALSE(sink.called_late());
  }
  const auto status = engine_.Status();
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_EQ(status->recovery.epoch, 5U);
  EXPECT_EQ(status->recovery.restarts, 4U);
  EXPECT_FALSE(status->recovery.down);
  ASSERT_EQ(status->recovery.last.size(), 4U);
  EXPECT_EQ(status->recovery.last.back().reason, "rank 1 on host n1 died");
  EXPECT_GT(status->recovery.lost_seconds, 0.005);
}

TEST_F(RecoveringEngineTest, RequestsMoveFromALifeThatGoesOn) {
  Begin(NewLife());
  std::vector<CollectingSink> sinks(5);
  for (int32_t r = 0; r < 5; ++r) Submit(Of(r + 1, 150), sinks[static_cast<size_t>(r)]);
  std::vector<std::shared_ptr<FakeEngine>> before;
  for (size_t moves = 0; moves < 3; ++moves) {
    ASSERT_TRUE(sinks[0].WaitForTokens(moves * 20 + 5));
    before.push_back(life_);
    Begin(NewLife());
    for (int tries = 0; before.back()->running() > 0; ++tries) {
      ASSERT_LT(tries, 1000) << "they go on where they were";
      std::this_thread::sleep_for(milliseconds(2));
    }
    if (moves == 1) before.back()->Die(Death());  // which is nobody's business any more
  }
  for (int32_t r = 0; r < 5; ++r) {
    CollectingSink& sink = sinks[static_cast<size_t>(r)];
    ASSERT_TRUE(sink.WaitForFinish().has_value());
    EXPECT_EQ(sink.WaitForFinish()->reason, FinishReason::kLength);
    EXPECT_EQ(sink.tokens(), Whole(r + 1, 150));
    EXPECT_FALSE(sink.called_late());
  }
  EXPECT_EQ(engine_.Status()->recovery.restarts, 0U);
  EXPECT_EQ(engine_.Status()->recovery.epoch, 4U);
}

TEST_F(RecoveringEngineTest, ALifeThatIsToBeginReadsWhatIsOpen) {
  Begin(NewLife(milliseconds(5)));
  std::vector<CollectingSink> sinks(3);
  Submit(Of(1, 500), sinks[0]);
  EngineRequest apart = Of(2, 500);
  apart.reuse = false;
  Submit(apart, sinks[1]);
  EngineRequest scored = Of(3, 500);
  scored.prompt_logprobs = true;
  scored.logprobs = 1;
  Submit(scored, sinks[2]);
  ASSERT_TRUE(sinks[0].WaitForTokens(20));
  const auto next = NewLife();
  engine_.WarmUp(*next, [] { return true; });
  ASSERT_EQ(next->submitted(), 1);
  const EngineRequest read = next->requests().front();
  EXPECT_EQ(read.max_tokens, 0);
  ASSERT_GE(read.prompt.size(), 23U);
  EXPECT_EQ(std::vector<int32_t>(read.prompt.begin() + 3, read.prompt.begin() + 23), Whole(1, 20));
  EXPECT_EQ(next->running(), 0);

  // One that does not get on with it is not waited for.
  const auto slow = NewLife();
  slow->Hold(true);
  int asked = 0;
  engine_.WarmUp(*slow, [&] { return ++asked < 5; });
  EXPECT_EQ(asked, 5);
  slow->Hold(false);
  engine_.WarmUp(*slow, [] { return true; });
  EXPECT_EQ(slow->running(), 0);
  Begin(slow);
  for (int32_t r = 0; r < 3; ++r) {
    CollectingSink& sink = sinks[static_cast<size_t>(r)];
    ASSERT_TRUE(sink.WaitForFinish().has_value());
    EXPECT_EQ(sink.tokens(), Whole(r + 1, 500));
  }
}

TEST_F(RecoveringEngineTest, WhatOpenRequestsMayComeToIsKnown) {
  Begin(NewLife());
  EXPECT_EQ(engine_.LongestOpen(), 0);
  std::vector<CollectingSink> sinks(2);
  const auto id = Submit(Of(1, 5000), sinks[0]);
  const auto other = Submit(Of(2, 4000), sinks[1]);
  EXPECT_EQ(engine_.LongestOpen(), 5003);
  ASSERT_TRUE(sinks[0].WaitForTokens(5));
  Replace();
  EXPECT_EQ(engine_.LongestOpen(), 5003);
  engine_.Cancel(id);
  ASSERT_TRUE(sinks[0].WaitForFinish());
  EXPECT_EQ(engine_.LongestOpen(), 4003);
  engine_.Cancel(other);
  ASSERT_TRUE(sinks[1].WaitForFinish());
}

TEST_F(RecoveringEngineTest, LogprobsComeOnce) {
  Begin(NewLife());
  EngineRequest request = Of(1, 60);
  request.logprobs = 2;
  request.prompt_logprobs = true;
  CollectingSink sink;
  Submit(request, sink);
  for (size_t tokens : {0U, 1U, 20U}) {
    ASSERT_TRUE(sink.WaitForTokens(tokens));
    Replace();
  }
  ASSERT_TRUE(sink.WaitForFinish().has_value());
  EXPECT_EQ(sink.tokens(), Whole(1, 60));
  const auto logprobs = sink.logprobs();
  ASSERT_EQ(logprobs.size(), 62U);  // of the prompt from the second token on
  for (size_t i = 0; i < logprobs.size(); ++i) {
    EXPECT_EQ(logprobs[i].first, static_cast<int64_t>(i) + 1);
  }
  EXPECT_EQ(logprobs[2].second, FakeEngine::LogprobsOf(10000, 2));
}

TEST_F(RecoveringEngineTest, WithoutALifeRequestsWait) {
  CollectingSink early;
  Submit(Of(1, 10), early);
  EXPECT_TRUE(absl::IsUnknown(engine_.Health()));
  Begin(NewLife());
  EXPECT_TRUE(engine_.Health().ok()) << engine_.Health();
  ASSERT_TRUE(early.WaitForFinish().has_value());
  EXPECT_EQ(early.tokens(), Whole(1, 10));

  life_->Die(Death());
  engine_.Lose(Death());
  EXPECT_TRUE(absl::IsUnknown(engine_.Health()));
  EXPECT_THAT(Message(engine_.Health()), HasSubstr("rank 1 on host n1 died"));
  std::vector<CollectingSink> sinks(8);
  for (int32_t r = 0; r < 8; ++r) Submit(Of(r + 1, 10), sinks[static_cast<size_t>(r)]);
  EXPECT_EQ(engine_.Submit(Of(9, 10), {}).status().code(), absl::StatusCode::kResourceExhausted);
  const auto status = engine_.Status();
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_TRUE(status->recovery.down);
  EXPECT_EQ(status->recovery.reason, "rank 1 on host n1 died");
  EXPECT_EQ(status->waiting, 8);
  engine_.Explain(Death(2));
  EXPECT_THAT(Message(engine_.Health()), HasSubstr("rank 2 on host n2 died"));
  Begin(NewLife());
  for (int32_t r = 0; r < 8; ++r) {
    ASSERT_TRUE(sinks[static_cast<size_t>(r)].WaitForFinish().has_value());
    EXPECT_EQ(sinks[static_cast<size_t>(r)].tokens(), Whole(r + 1, 10));
  }
}

TEST_F(RecoveringEngineTest, ADeathThatNobodyHasToldYetLetsRequestsWait) {
  Begin(NewLife());
  CollectingSink running, refused;
  Submit(Of(1, 500), running);
  ASSERT_TRUE(running.WaitForTokens(3));
  life_->Die(Death());
  Submit(Of(2, 10), refused);  // by a life that is dead, and not lost yet
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_FALSE(running.finished());
  EXPECT_FALSE(refused.finished());
  engine_.Lose(Death());
  Begin(NewLife(milliseconds(0)));
  ASSERT_TRUE(running.WaitForFinish().has_value());
  ASSERT_TRUE(refused.WaitForFinish().has_value());
  EXPECT_EQ(running.tokens(), Whole(1, 500));
  EXPECT_EQ(refused.tokens(), Whole(2, 10));
}

TEST_F(RecoveringEngineTest, CancelsWithAndWithoutALife) {
  Begin(NewLife());
  CollectingSink with, without, before;
  const auto with_id = Submit(Of(1, 1000), with);
  const auto without_id = Submit(Of(2, 1000), without);
  ASSERT_TRUE(with.WaitForTokens(2));
  engine_.Cancel(with_id);
  ASSERT_TRUE(with.WaitForFinish().has_value());
  EXPECT_EQ(with.WaitForFinish()->reason, FinishReason::kCancelled);
  life_->Die(Death());
  engine_.Lose(Death());
  engine_.Cancel(without_id);
  const auto finish = without.WaitForFinish();
  ASSERT_TRUE(finish.has_value());
  EXPECT_EQ(finish->reason, FinishReason::kCancelled);
  EXPECT_EQ(finish->usage.completion_tokens, static_cast<int32_t>(without.tokens().size()));
  const auto before_id = Submit(Of(3, 1000), before);
  engine_.Cancel(before_id);
  EXPECT_EQ(before.WaitForFinish()->reason, FinishReason::kCancelled);
  Begin(NewLife());
  EXPECT_EQ(life_->submitted(), 0);
  engine_.Cancel(before_id);
  engine_.Cancel(4711);
}

TEST_F(RecoveringEngineTest, WhatALifeRefusesForItsOwnSakeIsRefused) {
  Begin(NewLife());
  life_->set_capacity(0);
  EXPECT_EQ(engine_.Submit(Of(1, 10), {}).status().code(), absl::StatusCode::kResourceExhausted);
  // One that waited hears of it at its end.
  life_->Die(Death());
  engine_.Lose(Death());
  CollectingSink sink;
  Submit(Of(1, 10), sink);
  auto full = NewLife();
  full->set_capacity(0);
  Begin(full);
  const auto finish = sink.WaitForFinish();
  ASSERT_TRUE(finish.has_value());
  EXPECT_EQ(finish->reason, FinishReason::kFailed);
  EXPECT_EQ(finish->status.code(), absl::StatusCode::kResourceExhausted);
}

/// Refuses what it is asked, once it may.
class LateRefusal final : public parallel::Engine {
 public:
  absl::StatusOr<parallel::RequestId> Submit(EngineRequest /*request*/,
                                             parallel::EngineSink /*sink*/) override {
    asked_ = true;
    while (!may_) std::this_thread::sleep_for(milliseconds(1));
    return InvalidArgument("too late");
  }
  void Cancel(parallel::RequestId /*id*/) override {}
  absl::StatusOr<parallel::EngineStatus> Status() override { return parallel::EngineStatus{}; }
  absl::Status Health() override { return absl::OkStatus(); }

  bool asked() const { return asked_; }
  void Refuse() { may_ = true; }

 private:
  std::atomic<bool> asked_ = false;
  std::atomic<bool> may_ = false;
};

TEST_F(RecoveringEngineTest, WhatALifeRefusesAfterTheNextOneTookItIsNotRefused) {
  const auto old_life = std::make_shared<LateRefusal>();
  engine_.Begin(old_life, ++epoch_);
  CollectingSink sink;
  std::thread client([&] { Submit(Of(1, 20), sink); });
  while (!old_life->asked()) std::this_thread::sleep_for(milliseconds(1));
  Begin(NewLife());
  old_life->Refuse();
  client.join();
  const auto finish = sink.WaitForFinish();
  ASSERT_TRUE(finish.has_value());
  EXPECT_EQ(finish->reason, FinishReason::kLength) << finish->status;
  EXPECT_EQ(sink.tokens(), Whole(1, 20));
}

TEST_F(RecoveringEngineTest, GivingUpEndsEverything) {
  Begin(NewLife());
  CollectingSink sink;
  Submit(Of(1, 1000), sink);
  ASSERT_TRUE(sink.WaitForTokens(1));
  life_->Die(Death());
  engine_.Lose(Death());
  engine_.GiveUp(Unavailable("died too often"));
  const auto finish = sink.WaitForFinish();
  ASSERT_TRUE(finish.has_value());
  EXPECT_EQ(finish->status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Message(engine_.Health()), "died too often");
  EXPECT_EQ(Message(engine_.Submit(Of(1, 1), {}).status()), "died too often");
  EXPECT_FALSE(engine_.Status().ok());
}

TEST_F(RecoveringEngineTest, ARequestThatEveryLifeDiesOfIsNotTriedForEver) {
  // It gets a token in its first life, and none in the others.
  Begin(NewLife());
  CollectingSink deadly;
  Submit(Of(1, 1000), deadly);
  ASSERT_TRUE(deadly.WaitForTokens(1));
  life_->Hold(true);
  int lives = 0;
  while (!deadly.finished() && lives < 20) {
    ++lives;
    life_->Die(Death());
    engine_.Lose(Death());
    auto next = NewLife();
    next->Hold(true);
    Begin(next);
  }
  const auto finish = deadly.WaitForFinish();
  ASSERT_TRUE(finish.has_value());
  EXPECT_EQ(finish->reason, FinishReason::kFailed);
  EXPECT_THAT(Message(finish->status), HasSubstr("10 lives of the ranks in a row"));
  EXPECT_THAT(Message(finish->status), HasSubstr("rank 1 on host n1 died"));
  EXPECT_LE(lives, 11);
}

/// A life in which a test says what comes of requests, by their order.
class ToldEngine final : public parallel::Engine {
 public:
  absl::StatusOr<parallel::RequestId> Submit(EngineRequest /*request*/,
                                             parallel::EngineSink sink) override {
    sinks_.push_back(std::move(sink));
    return sinks_.size();
  }
  void Cancel(parallel::RequestId /*id*/) override {}
  absl::StatusOr<parallel::EngineStatus> Status() override { return parallel::EngineStatus{}; }
  absl::Status Health() override { return absl::OkStatus(); }

  void Admit(size_t which) { sinks_.at(which).on_admitted(); }
  void Give(size_t which, int32_t token) { sinks_.at(which).on_tokens(std::span(&token, 1)); }
  void Die() {
    for (const parallel::EngineSink& sink : sinks_) {
      sink.on_finish({.reason = FinishReason::kFailed, .status = Death(), .engine_died = true});
    }
  }

 private:
  std::vector<parallel::EngineSink> sinks_;
};

TEST_F(RecoveringEngineTest, WhatWaitsInTheQueueIsNotWhatLivesDieOf) {
  auto life = std::make_shared<ToldEngine>();
  engine_.Begin(life, ++epoch_);
  CollectingSink streams;
  CollectingSink deadly;
  CollectingSink queued;
  int admitted = 0;
  parallel::EngineSink counted = streams.Sink();
  counted.on_admitted = [&admitted] { ++admitted; };
  ASSERT_TRUE(engine_.Submit(Of(1, 1000), counted).ok());
  Submit(Of(2, 1000), deadly);
  Submit(Of(3, 1000), queued);
  for (int lives = 1; lives <= 25; ++lives) {
    life->Admit(0);
    life->Give(0, lives);
    if (!deadly.finished()) life->Admit(1);
    life->Die();
    engine_.Lose(Death());
    EXPECT_EQ(deadly.finished(), lives >= 10) << lives;
    EXPECT_FALSE(streams.finished()) << lives;
    EXPECT_FALSE(queued.finished()) << lives;
    life = std::make_shared<ToldEngine>();
    engine_.Begin(life, ++epoch_);
  }
  EXPECT_EQ(streams.tokens().size(), 25U);
  EXPECT_EQ(admitted, 1);
  engine_.GiveUp(Death());
}

TEST_F(RecoveringEngineTest, EachLossIsNoticedOnce) {
  Begin(NewLife());
  std::mutex mutex;
  std::vector<parallel::EngineNotice> notices;
  CollectingSink sink;
  parallel::EngineSink with_notice = sink.Sink();
  with_notice.on_notice = [&](const parallel::EngineNotice& notice) {
    const std::lock_guard lock(mutex);
    notices.push_back(notice);
  };
  ASSERT_TRUE(engine_.Submit(Of(1, 200), with_notice).ok());
  for (size_t tokens : {2U, 4U}) {
    ASSERT_TRUE(sink.WaitForTokens(tokens));
    Replace();
  }
  ASSERT_TRUE(sink.WaitForFinish().has_value());
  const std::lock_guard lock(mutex);
  ASSERT_EQ(notices.size(), 2U);
  EXPECT_EQ(notices[0].number, 1U);
  EXPECT_EQ(notices[1].number, 2U);
  EXPECT_THAT(notices[0].text, HasSubstr("rank 1 on host n1 died"));
}

TEST_F(RecoveringEngineTest, AStormOfDeathsCancelsAndArrivals) {
  constexpr int32_t kThreads = 4, kEach = 12;
  Begin(NewLife(milliseconds(0)));
  std::atomic<int> busy = kThreads;
  std::vector<std::thread> clients;
  for (int32_t t = 0; t < kThreads; ++t) {
    clients.emplace_back([&, t] {
      SplitMix random(static_cast<uint64_t>(t) + 1);
      for (int32_t r = 0; r < kEach; ++r) {
        const int32_t prompt = t * kEach + r + 1;
        const auto length = static_cast<int32_t>(random.Below(400));
        CollectingSink sink;
        absl::StatusOr<parallel::RequestId> id = absl::UnknownError("");
        do {
          id = engine_.Submit(Of(prompt, length), sink.Sink());
        } while (absl::IsResourceExhausted(id.status()));
        ASSERT_TRUE(id.ok()) << id.status();
        const bool cancels = random.Below(4) == 0;
        if (cancels) {
          std::this_thread::sleep_for(std::chrono::microseconds(random.Below(4000)));
          engine_.Cancel(*id);
        }
        const auto finish = sink.WaitForFinish();
        ASSERT_TRUE(finish.has_value());
        auto whole = Whole(prompt, length);
        if (finish->reason == FinishReason::kCancelled) {
          EXPECT_TRUE(cancels);
          whole.resize(std::min(whole.size(), sink.tokens().size()));
        } else {
          EXPECT_EQ(finish->reason, FinishReason::kLength) << finish->status;
        }
        EXPECT_EQ(sink.tokens(), whole);
        EXPECT_FALSE(sink.called_late());
      }
      --busy;
    });
  }
  SplitMix random(99);
  while (busy > 0) {
    std::this_thread::sleep_for(std::chrono::microseconds(3000 + random.Below(6000)));
    life_->Die(Death());
    if (random.Below(2) == 0) std::this_thread::sleep_for(std::chrono::microseconds(500));
    engine_.Lose(Death());
    Begin(NewLife(milliseconds(0)));
  }
  for (std::thread& client : clients) client.join();
}

TEST_F(RecoveringEngineTest, CountsGoOnFromLifeToLife) {
  Begin(NewLife());
  CollectingSink first, second;
  Submit(Of(1, 10), first);
  ASSERT_TRUE(first.WaitForFinish().has_value());
  const auto before = engine_.Status();
  ASSERT_TRUE(before.ok());
  EXPECT_EQ(before->tokens_generated, 10U);
  life_->Die(Death());
  engine_.Lose(Death());
  EXPECT_EQ(engine_.Status()->tokens_generated, 10U);
  Begin(NewLife());
  Submit(Of(2, 5), second);
  ASSERT_TRUE(second.WaitForFinish().has_value());
  // What was asked of the life alone is counted, too.
  EXPECT_EQ(engine_.LifeStatus()->tokens_generated, 5U);
  life_->Die(Death());
  engine_.Lose(Death());
  EXPECT_FALSE(engine_.LifeStatus().ok());
  EXPECT_EQ(engine_.Status()->tokens_generated, 15U);
  // So are those of a life that another one follows without a loss.
  CollectingSink third;
  Begin(NewLife());
  Submit(Of(3, 7), third);
  ASSERT_TRUE(third.WaitForFinish().has_value());
  EXPECT_EQ(engine_.Status()->tokens_generated, 22U);
  Begin(NewLife());
  EXPECT_EQ(engine_.Status()->tokens_generated, 22U);
  EXPECT_EQ(engine_.Status()->ranks.size(), 1U);
}

}  // namespace
}  // namespace tandem::testing
