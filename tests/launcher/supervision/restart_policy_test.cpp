#include "launcher/supervision/restart_policy.h"

#include <gtest/gtest.h>

namespace tandem::launcher {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

TEST(RestartPolicy, ALifeOfUseIsFollowedAtOnce) {
  RestartPolicy policy(10);
  RestartPolicy::Clock::time_point now;
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(policy.Next(now, seconds(60)), milliseconds(0));
    now += minutes(1);
  }
}

TEST(RestartPolicy, LivesThatAreTooShortWaitLongerAndLonger) {
  RestartPolicy policy(100);
  const RestartPolicy::Clock::time_point now;
  EXPECT_EQ(policy.Next(now, seconds(0)), milliseconds(250));
  EXPECT_EQ(policy.Next(now, milliseconds(1900)), milliseconds(500));
  EXPECT_EQ(policy.Next(now, seconds(0)), milliseconds(1000));
  for (int i = 0; i < 20; ++i) (void)policy.Next(now, seconds(0));
  EXPECT_EQ(policy.Next(now, seconds(0)), seconds(30));
  // One that was of use makes good for them.
  EXPECT_EQ(policy.Next(now, seconds(2)), milliseconds(0));
  EXPECT_EQ(policy.Next(now, seconds(0)), milliseconds(250));
}

TEST(RestartPolicy, AnHourHasOnlySoMany) {
  RestartPolicy policy(2);
  const RestartPolicy::Clock::time_point now;
  EXPECT_TRUE(policy.Next(now, seconds(60)));
  EXPECT_TRUE(policy.Next(now + minutes(30), seconds(60)));
  EXPECT_FALSE(policy.Next(now + minutes(59), seconds(60)));
  EXPECT_TRUE(policy.Next(now + hours(1), seconds(60))) << "the first is forgotten";
  EXPECT_FALSE(policy.Next(now + hours(1), seconds(60)));
}

}  // namespace
}  // namespace tandem::launcher
