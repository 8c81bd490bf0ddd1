#include "launcher/job/job_lines.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tandem::launcher {
namespace {

using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(JobLines, SignsOfAStartAreHeardAndNotShown) {
  JobLines lines(2);
  EXPECT_FALSE(lines.told());
  EXPECT_EQ(lines.Take(parallel::StartLine({.rank = 1, .host = "n2"})), "");
  EXPECT_TRUE(lines.told());
  EXPECT_EQ(lines.Take("tandem-start of something else\n"), "tandem-start of something else\n");
  for (int i = 0; i < 15; ++i) lines.starts().Pass(seconds(1));
  EXPECT_THAT(lines.starts().Silent(seconds(15), seconds(60)), ElementsAre(1));
  EXPECT_FALSE(lines.reported());
}

TEST(JobLines, AnErrorOfAllRanksIsShownOnce) {
  JobLines lines(2);
  EXPECT_EQ(lines.Take("tandem: no room\n"), "tandem: no room\n");
  EXPECT_EQ(lines.Take("tandem: no room\n"), "");
  EXPECT_TRUE(lines.reported());
}

TEST(JobLines, AHostThatIsSilentIsNoErrorOfARank) {
  JobLines lines(2);
  const std::string line = "tandem: host n2 has not answered for 12 s; ssh still tries\n";
  EXPECT_EQ(lines.Take(line), line);
  EXPECT_TRUE(lines.told());
  EXPECT_FALSE(lines.reported());
  EXPECT_EQ(lines.Reason(), "");
}

TEST(JobLines, WhatMpirunSaysIsKeptForTheReason) {
  JobLines lines(2);
  for (const char* line :
       {"--------------------------------------------------------------------------\n",
        "mpirun noticed that process rank 1 with PID 4711 on node n2 exited on\n",
        "signal 9 (Killed).\n",
        "--------------------------------------------------------------------------\n"}) {
    EXPECT_EQ(lines.Take(line), "");
  }
  EXPECT_EQ(lines.Reason(), "rank 1 on host n2 was ended by signal 9 (Killed)");
  EXPECT_THAT(FirstParagraph(lines.notices()), HasSubstr("noticed that process rank 1"));
}

}  // namespace
}  // namespace tandem::launcher
