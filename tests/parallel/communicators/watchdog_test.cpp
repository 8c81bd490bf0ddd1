#include "parallel/communicators/watchdog.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <future>

#include "parallel/communicators/thread_communicator.h"
#include "tests/parallel/communicators/thread_ranks.h"

namespace tandem::parallel {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Clock = std::chrono::steady_clock;

constexpr core::StepPhase kAttention = {4, 1, core::StepPhase::Kind::kAttention};
constexpr core::StepPhase kFeedForward = {4, 1, core::StepPhase::Kind::kFeedForward};

TEST(ProgressBoard, KeepsWhatARankWrote) {
  ProgressBoard board({"alpha", "beta"});
  EXPECT_EQ(board.ranks(), 2);
  EXPECT_EQ(board.Read(1).collectives, 0U);
  EXPECT_FALSE(board.Read(1).waiting);
  board.Enter(1, kAttention);
  EXPECT_TRUE(board.Read(1).waiting);
  EXPECT_EQ(board.Read(1).phase.layer, 1);
  board.Leave(1);
  board.Enter(1, kFeedForward);
  EXPECT_EQ(board.Read(1).collectives, 2U);
  EXPECT_EQ(board.Read(1).phase.kind, core::StepPhase::Kind::kFeedForward);
  EXPECT_EQ(board.Read(0).collectives, 0U);
}

TEST(ProgressBoard, NeverShowsHalfAnEntry) {
  ProgressBoard board({"alpha"});
  std::atomic<bool> done{false};
  std::thread writer([&] {
    for (uint64_t i = 1; i <= 20000; ++i) {
      board.Put(0, {{i, static_cast<int32_t>(i), core::StepPhase::Kind::kOther},
                    i,
                    i % 2 == 0,
                    Clock::time_point(Clock::duration(static_cast<int64_t>(i)))});
    }
    done = true;
  });
  uint64_t last = 0;
  while (!done) {
    const RankProgress seen = board.Read(0);
    const auto collectives = static_cast<int64_t>(seen.collectives);
    ASSERT_EQ(seen.phase.step, seen.collectives);
    ASSERT_EQ(seen.since.time_since_epoch().count(), collectives);
    ASSERT_EQ(seen.phase.layer, seen.collectives == 0 ? -1 : collectives);
    ASSERT_GE(seen.collectives, last);
    last = seen.collectives;
  }
  writer.join();
}

TEST(FindStalledCollective, NamesWhoHasNotComeAndWhereItWas) {
  ProgressBoard board({"alpha", "beta", "gamma"});
  for (const int rank : {0, 1, 2}) {
    board.Enter(rank, kAttention);
    board.Leave(rank);
  }
  board.Enter(0, kFeedForward);
  board.Enter(1, kFeedForward);
  EXPECT_FALSE(FindStalledCollective(board, seconds(5), Clock::now()).has_value());
  const auto stalled = FindStalledCollective(board, seconds(5), Clock::now() + seconds(6));
  ASSERT_TRUE(stalled.has_value());
  EXPECT_EQ(stalled->waiting_rank, 0);
  EXPECT_THAT(stalled->laggards, ElementsAre(2));
  EXPECT_THAT(stalled->unseen, IsEmpty());
  EXPECT_THAT(stalled->text, HasSubstr("rank 0 on host alpha has waited 6.0 s in step 4, layer 1, "
                                       "feed-forward; rank 2 on host gamma has not come, it left "
                                       "step 4, layer 1, attention"));
}

TEST(FindStalledCollective, KnowsWhenAllHaveCome) {
  ProgressBoard board({"alpha", "beta"});
  board.Enter(0, kAttention);
  board.Enter(1, kAttention);
  const auto stalled = FindStalledCollective(board, seconds(1), Clock::now() + seconds(2));
  ASSERT_TRUE(stalled.has_value());
  EXPECT_THAT(stalled->laggards, IsEmpty());
  EXPECT_EQ(stalled->text,
            "all 2 ranks have waited in step 4, layer 1, attention, for up to 2.0 s, so the "
            "messages between them are stalled: rank 0 on host alpha, rank 1 on host beta");
}

TEST(FindStalledCollective, GpusThatAllWaitAreNamed) {
  ProgressBoard board({"alpha (GPU 0, Emulated GPU)", "alpha (GPU 1, Emulated GPU)"}, true);
  board.Enter(0, kAttention);
  board.Enter(1, kAttention);
  const auto stalled = FindStalledCollective(board, seconds(1), Clock::now() + seconds(2));
  ASSERT_TRUE(stalled.has_value());
  EXPECT_THAT(
      stalled->text,
      HasSubstr("so the messages between them, or one of their GPUs, are stalled: rank 0 on "
                "host alpha (GPU 0, Emulated GPU), rank 1 on"));
}

TEST(FindStalledCollective, WhoIsLeftBehindInItIsNotWaitedFor) {
  ProgressBoard board({"alpha", "beta", "gamma"});
  for (const int rank : {0, 1, 2}) board.Enter(rank, kAttention);
  board.Leave(0);
  board.Leave(2);
  board.Enter(2, kFeedForward);
  const auto stalled = FindStalledCollective(board, seconds(1), Clock::now() + seconds(2));
  ASSERT_TRUE(stalled.has_value());
  EXPECT_EQ(stalled->waiting_rank, 1);
  EXPECT_THAT(stalled->laggards, IsEmpty());
  EXPECT_THAT(stalled->passed, ElementsAre(0, 2));
  EXPECT_THAT(stalled->text, HasSubstr("rank 1 on host beta has waited 2.0 s in step 4, layer 1, "
                                       "attention; rank 0 on host alpha has gone on from there; "
                                       "rank 2 on host gamma has gone on from there"));
}

TEST(FindStalledCollective, ARankThatCameToNoneIsNamed) {
  ProgressBoard board({"alpha", "beta"});
  board.Begin(0);
  board.Begin(1);
  board.Enter(0, kAttention);
  const auto stalled = FindStalledCollective(board, seconds(1), Clock::now() + seconds(2));
  ASSERT_TRUE(stalled.has_value());
  EXPECT_THAT(stalled->laggards, ElementsAre(1));
  EXPECT_THAT(stalled->text, HasSubstr("; rank 1 on host beta has not come, it has been in none "
                                       "since it was ready 2.0 s ago"));
}

TEST(FindStalledCollective, OldNewsOfOthersAreNoStall) {
  ProgressBoard board({"alpha", "beta"});
  board.Begin(0);
  board.Put(1, {.phase = kAttention,
                .collectives = 1,
                .waiting = true,
                .since = Clock::now() - seconds(100),
                .heard = true});
  EXPECT_FALSE(FindStalledCollective(board, seconds(1), Clock::now()).has_value());
  const auto stalled = FindFurthestWait(board, Clock::now());
  ASSERT_TRUE(stalled.has_value());
  EXPECT_EQ(stalled->waiting_rank, 1);
  EXPECT_THAT(stalled->laggards, ElementsAre(0));
}

TEST(FindStalledCollective, DoesNotBlameRanksItHasNotHeardOf) {
  ProgressBoard board({"alpha", "beta"});
  board.Enter(0, kAttention);
  const auto stalled = FindStalledCollective(board, seconds(1), Clock::now() + seconds(2));
  ASSERT_TRUE(stalled.has_value());
  EXPECT_THAT(stalled->laggards, IsEmpty());
  EXPECT_THAT(stalled->unseen, ElementsAre(1));
  EXPECT_THAT(stalled->text, HasSubstr("nothing is known of rank 1 on host beta"));
}

TEST(FindStalledCollective, IdleRanksAreNotStuck) {
  ProgressBoard board({"alpha"});
  board.Enter(0, kAttention);
  board.Leave(0);
  EXPECT_FALSE(FindStalledCollective(board, seconds(1), Clock::now() + seconds(100)).has_value());
}

TEST(Watchdog, ReportsTheLaggardOnceWhileTheRanksHang) {
  ThreadWorldOptions options;
  options.hosts = {"alpha", "beta", "gamma"};
  auto worlds = MakeThreadWorld(3, options);
  ProgressBoard board(options.hosts);
  for (const auto& world : worlds) world->PublishTo(&board);
  std::promise<StalledCollective> first;
  std::atomic<int> reports{0};
  Watchdog watchdog(board, milliseconds(200), [&](const StalledCollective& stalled) {
    if (reports.fetch_add(1) == 0) first.set_value(stalled);
  });
  std::future<StalledCollective> report = first.get_future();
  const auto statuses = RunRanks(std::move(worlds), [&](Communicator& world) -> absl::Status {
    std::vector<int64_t> values = {1};
    TANDEM_RETURN_IF_ERROR(world.AllReduceSum(values, kAttention));
    if (world.rank() == 1) {
      report.wait();
      // Longer than another deadline: the collective must not be reported again.
      std::this_thread::sleep_for(milliseconds(500));
    }
    return world.AllReduceSum(values, kFeedForward);
  });
  for (const absl::Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
  const StalledCollective stalled = report.get();
  EXPECT_THAT(stalled.laggards, ElementsAre(1));
  EXPECT_EQ(stalled.phase.kind, core::StepPhase::Kind::kFeedForward);
  EXPECT_THAT(stalled.text, HasSubstr("rank 1 on host beta has not come"));
  EXPECT_EQ(reports, 1);
}

TEST(Watchdog, ReportsAfterTheGraceOfWhoIsToldFirst) {
  constexpr milliseconds kGrace{200};
  ProgressBoard board({"alpha", "beta"});
  board.Enter(0, kAttention);
  std::promise<Clock::time_point> reported;
  const auto report = [&](const StalledCollective&) { reported.set_value(Clock::now()); };
  Watchdog watchdog(board, milliseconds(50), report);
  Clock::time_point told_at;
  std::promise<std::string> told;
  watchdog.TellFirst(
      [&](const StalledCollective& stalled) {
        told_at = Clock::now();
        told.set_value(stalled.text);
      },
      kGrace);
  EXPECT_THAT(told.get_future().get(), HasSubstr("rank 0 on host alpha has waited"));
  // Of one thread, so that it does not matter when others run.
  EXPECT_GE(reported.get_future().get() - told_at, kGrace);
}

TEST(Watchdog, WhoIsToldFirstMayEndItInPeace) {
  ProgressBoard board({"alpha", "beta"});
  board.Enter(0, kAttention);
  std::promise<void> told;
  {
    Watchdog watchdog(board, milliseconds(50), [&](const StalledCollective&) { ADD_FAILURE(); });
    watchdog.TellFirst([&](const StalledCollective&) { told.set_value(); }, seconds(100));
    told.get_future().wait();
  }
}

TEST(Watchdog, StopsAtOnce) {
  ProgressBoard board({"alpha"});
  // The machine may stand still for a second, but not each time.
  Clock::duration shortest = seconds(100);
  for (int i = 0; i < 5 && shortest >= seconds(1); ++i) {
    const auto before = Clock::now();
    {
      Watchdog watchdog(board, seconds(100), [](const StalledCollective&) {});
    }
    shortest = std::min<Clock::duration>(shortest, Clock::now() - before);
  }
  EXPECT_LT(shortest, seconds(1));
}

}  // namespace
}  // namespace tandem::parallel
