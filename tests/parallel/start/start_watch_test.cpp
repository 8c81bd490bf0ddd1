#include "parallel/start/start_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <vector>

namespace tandem::parallel {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Clock = std::chrono::steady_clock;

constexpr StartNews NewsOf(int rank, StartPhase phase, int percent = 0) {
  return {.rank = rank, .host = "n2", .phase = phase, .percent = percent, .pid = 4711};
}

TEST(StartNews, AreLines) {
  for (int phase = 0; phase < kStartPhases; ++phase) {
    const StartNews news = NewsOf(3, static_cast<StartPhase>(phase), 37);
    const std::string line = StartLine(news);
    EXPECT_TRUE(line.starts_with(kStartPrefix));
    EXPECT_EQ(line.find('\n'), line.size() - 1);
    EXPECT_EQ(ReadStartLine(line), news);
  }
  for (const char* other :
       {"", "tandem: an error\n", "tandem-start \n", "tandem-start 1 99 0 5 n2\n",
        "tandem-start -1 1 0 5 n2\n", "tandem-start 1 1 0 5\n"}) {
    EXPECT_FALSE(ReadStartLine(other)) << other;
  }
}

TEST(StartPatience, HasALeast) {
  EXPECT_EQ(StartPatience(std::chrono::duration<double>(0.1)), seconds(15));
  EXPECT_EQ(StartPatience(std::chrono::duration<double>(60)), seconds(60));
}

TEST(StartTable, NamesThoseThatGiveNoSign) {
  StartTable table(3);
  EXPECT_FALSE(table.heard());
  table.Hear(NewsOf(0, StartPhase::kLoading, 12));
  table.Hear(NewsOf(1, StartPhase::kLoading, 37));
  table.Hear(NewsOf(7, StartPhase::kLoading));  // of no rank of this job
  EXPECT_TRUE(table.heard());
  for (int i = 0; i < 20; ++i) {
    table.Pass(seconds(1));
    table.Hear(NewsOf(0, StartPhase::kLoading, 12));
  }
  EXPECT_THAT(table.Silent(seconds(21), seconds(21)), IsEmpty());
  EXPECT_THAT(table.Silent(seconds(20), seconds(60)), ElementsAre(1));
  EXPECT_THAT(table.Silent(seconds(20), seconds(20)), ElementsAre(1, 2));
  EXPECT_EQ(table.Describe({1, 2}),
            "rank 1 on host n2 has given no sign for 20 s: it was loading its weights (37 %); "
            "rank 2 has given no sign for 20 s, since the job began");
}

TEST(StartTable, NamesThoseTogetherThatFellSilentTogether) {
  StartTable table(3);
  for (int rank = 0; rank < 3; ++rank) table.Hear(NewsOf(rank, StartPhase::kLoading));
  for (int i = 0; i < 20; ++i) {
    table.Pass(seconds(1));
    table.Hear(NewsOf(0, StartPhase::kLoading));
    if (i == 2) table.Hear(NewsOf(2, StartPhase::kLoading));  // one more sign, before it stopped
  }
  EXPECT_THAT(table.Silent(seconds(20), seconds(60)), ElementsAre(1, 2));
}

TEST(StartTable, CountsNoTimeInWhichNobodyLooked) {
  StartTable table(1);
  table.Hear(NewsOf(0, StartPhase::kModel));
  table.Pass(seconds(3600));
  EXPECT_THAT(table.Silent(seconds(2), seconds(2)), IsEmpty());
}

TEST(StartTable, LetsThoseBeThatAreReady) {
  StartTable table(2);
  table.Hear(NewsOf(0, StartPhase::kReady));
  table.Hear(NewsOf(1, StartPhase::kSettingUp));
  for (int i = 0; i < 20; ++i) table.Pass(seconds(1));
  EXPECT_THAT(table.Silent(seconds(15), seconds(15)), ElementsAre(1));
  EXPECT_FALSE(table.ready());
  table.Hear(NewsOf(1, StartPhase::kReady));
  EXPECT_TRUE(table.ready());
  EXPECT_THAT(table.Silent(seconds(15), seconds(15)), IsEmpty());
}

/// A watch with short times, whose signs and ends are counted.
struct Watched {
  Watched()
      : watch({.rank = 1,
               .host = "n2",
               .patience = milliseconds(100),
               .interval = milliseconds(5),
               .lines = false,
               .end = [this](const std::string& why) {
                 const MutexLock lock(mutex);
                 if (ends++ == 0) first_end = why;
               }}) {}
  ~Watched() { watch.Finish(); }
  bool EndsWithin(Clock::duration time) {
    const auto until = Clock::now() + time;
    while (ends == 0 && Clock::now() < until) std::this_thread::sleep_for(milliseconds(2));
    return ends > 0;
  }

  std::atomic<int> ends = 0;
  Mutex mutex;
  std::string first_end ABSL_GUARDED_BY(mutex);
  StartWatch watch;
};

TEST(StartWatch, EndsARankThatStandsStill) {
  Watched rank;
  rank.watch.Enter(StartPhase::kLoading);
  rank.watch.Progress(0.37);
  ASSERT_TRUE(rank.EndsWithin(seconds(20)));
  const MutexLock lock(rank.mutex);
  EXPECT_THAT(rank.first_end, HasSubstr("rank 1 on host n2 has given no sign for "));
  EXPECT_THAT(rank.first_end, HasSubstr("loading its weights (37 %)"));
}

TEST(StartWatch, LetsARankGoOnThatProgressesSlowlyOrWaits) {
  Watched rank;
  rank.watch.Enter(StartPhase::kLoading);
  for (int i = 0; i < 20; ++i) {
    rank.watch.Progress(i / 20.0);
    EXPECT_FALSE(rank.EndsWithin(milliseconds(25)));
  }
  rank.watch.SetMode(StartWatch::Mode::kMeeting);
  EXPECT_FALSE(rank.EndsWithin(milliseconds(300)));
  rank.watch.SetMode(StartWatch::Mode::kWorking);
  const PatientPart patient(rank.watch);
  EXPECT_FALSE(rank.EndsWithin(milliseconds(300)));
  rank.watch.Finish();
  EXPECT_FALSE(rank.EndsWithin(milliseconds(300)));
}

TEST(StartWatch, EndsARankThatWaitsInACallForRanksThatDoNotCome) {
  Watched rank;
  rank.watch.SetMode(StartWatch::Mode::kInside);
  EXPECT_FALSE(rank.EndsWithin(milliseconds(50)));
  ASSERT_TRUE(rank.EndsWithin(seconds(20)));
  const MutexLock lock(rank.mutex);
  EXPECT_THAT(rank.first_end, HasSubstr("for ranks that have not come"));
}

TEST(StartWatch, GivesSignsUntilTheStartIsOver) {
  Watched rank;
  std::atomic<int> signs = 0;
  rank.watch.Publish([&](const StartNews& news) {
    EXPECT_EQ(news.rank, 1);
    ++signs;
  });
  rank.watch.SetMode(StartWatch::Mode::kMeeting);
  const auto until = Clock::now() + seconds(20);
  while (signs < 5 && Clock::now() < until) std::this_thread::sleep_for(milliseconds(2));
  EXPECT_GE(signs, 5);
  rank.watch.Finish();
  const int all = signs;
  std::this_thread::sleep_for(milliseconds(30));
  EXPECT_EQ(signs, all);
  EXPECT_EQ(rank.watch.News().phase, StartPhase::kReady);
}

}  // namespace
}  // namespace tandem::parallel
