#include "launcher/supervision/step_watch.h"

#include <gtest/gtest.h>

namespace tandem::launcher {
namespace {

using std::chrono::seconds;

class StepWatchTest : public ::testing::Test {
 protected:
  bool LookAfter(int seconds_later, uint64_t steps, int32_t running = 1) {
    now_ += seconds(seconds_later);
    return watch_.Stuck({.ranks = {}, .running = running, .steps = steps}, now_);
  }
  StepWatch watch_{seconds(10)};
  StepWatch::Clock::time_point now_;
};

TEST_F(StepWatchTest, StepsThatDoNotEndAreSeen) {
  for (int i = 0; i < 10; ++i) EXPECT_FALSE(LookAfter(1, 7)) << i;
  EXPECT_TRUE(LookAfter(1, 7));
}

TEST_F(StepWatchTest, AStepNowAndThenIsEnough) {
  for (uint64_t i = 0; i < 100; ++i) EXPECT_FALSE(LookAfter(1, i / 9));
}

TEST_F(StepWatchTest, WithoutRequestsThereIsNothingToDo) {
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(LookAfter(1, 7, 0));
  for (int i = 0; i < 10; ++i) EXPECT_FALSE(LookAfter(1, 7));
}

TEST_F(StepWatchTest, NewRanksHaveAllTheirTime) {
  for (int i = 0; i < 9; ++i) EXPECT_FALSE(LookAfter(1, 7));
  watch_.Begin();
  for (int i = 0; i < 10; ++i) EXPECT_FALSE(LookAfter(1, 7));
}

TEST_F(StepWatchTest, WhoDidNotLookBlamesNobody) {
  EXPECT_FALSE(LookAfter(1, 7));
  EXPECT_FALSE(LookAfter(3600, 7));
  EXPECT_FALSE(LookAfter(1, 7));
}

}  // namespace
}  // namespace tandem::launcher
