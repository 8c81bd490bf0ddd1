#include "launcher/job/reach_host.h"

#include <gtest/gtest.h>

namespace tandem::launcher {
namespace {

TEST(ReachHost, SaysWhichHostIsNotReached) {
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(ReachHost({"/bin/sh", "-c", "echo 'no route'; echo why >&2; echo --- >&2; exit 3"}), 3);
  EXPECT_EQ(UnreachedHost(::testing::internal::GetCapturedStderr()), "-c: why\n");
  EXPECT_EQ(ReachHost({"/bin/sh", "-c", "exit 0"}), 0);
  EXPECT_EQ(UnreachedHost("tandem: anything else"), "");
}

TEST(ReachHost, PassesOnWhatTheHostWritesButNotItsAnswer) {
  ::testing::internal::CaptureStdout();
  EXPECT_EQ(ReachHost({"/bin/sh", "-c", "echo one; printf two"}), 0);
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "one\ntwo");
}

}  // namespace
}  // namespace tandem::launcher
