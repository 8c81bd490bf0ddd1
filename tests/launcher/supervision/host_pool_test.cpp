#include "launcher/supervision/host_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tandem::launcher {
namespace {

using ::testing::ElementsAre;

TEST(HostLines, AreRead) {
  EXPECT_THAT(
      ReadHostLines("# all\n\n n1 slots=4 max_slots=8 # the first\nn2\n10.0.0.3  slots=0\n"),
      ElementsAre(HostLine{"n1", 4, " slots=4 max_slots=8"}, HostLine{"n2", 1, ""},
                  HostLine{"10.0.0.3", 1, " slots=0"}));
  EXPECT_TRUE(ReadHostLines("").empty());
}

std::vector<HostLine> ThreeHosts() { return ReadHostLines("n1 slots=2\nn2 slots=2\nn3 slots=2\n"); }

TEST(HostPool, ASpareTakesTheLostOnesPlace) {
  HostPool pool(ThreeHosts(), {"s1", "s2"}, 6, false);
  EXPECT_EQ(pool.Next()->Text(), "n1 slots=2\nn2 slots=2\nn3 slots=2\n");
  EXPECT_TRUE(pool.Lose("n2"));
  EXPECT_FALSE(pool.Lose("n2")) << "that is known";
  EXPECT_EQ(pool.Next()->Text(), "n1 slots=2\ns1 slots=2\nn3 slots=2\n");
  EXPECT_EQ(pool.Next()->ranks, 6);
  EXPECT_TRUE(pool.Lose("s1"));
  EXPECT_EQ(pool.Next()->Text(), "n1 slots=2\ns2 slots=2\nn3 slots=2\n");
  EXPECT_TRUE(pool.Lose("n3"));
  EXPECT_FALSE(pool.Next()) << "there may not be fewer ranks";
  EXPECT_TRUE(pool.Find("s1"));
  EXPECT_EQ(pool.Next()->Text(), "n1 slots=2\ns1 slots=2\ns2 slots=2\n");
  EXPECT_TRUE(pool.Find("n2"));
  EXPECT_FALSE(pool.Find("n2"));
  EXPECT_EQ(pool.Next()->Text(), "n1 slots=2\nn2 slots=2\ns1 slots=2\n");
}

TEST(HostPool, FewerHostsHaveFewerRanks) {
  HostPool pool(ThreeHosts(), {}, 6, true);
  EXPECT_TRUE(pool.Lose("n3"));
  EXPECT_EQ(pool.Next()->ranks, 4);
  EXPECT_TRUE(pool.Lose("n2"));
  EXPECT_EQ(pool.Next()->Text(), "n1 slots=2\n");
  EXPECT_EQ(pool.Next()->ranks, 2);
  EXPECT_TRUE(pool.Find("n3"));
  EXPECT_EQ(pool.Next()->ranks, 4);
}

TEST(HostPool, ANumberThatIsWantedHoldsWhenHostsComeBack) {
  HostPool pool(ThreeHosts(), {}, 6, true);
  EXPECT_TRUE(pool.Lose("n3"));
  pool.Want(3);
  EXPECT_EQ(pool.Next()->ranks, 2);
  EXPECT_TRUE(pool.Find("n3"));
  EXPECT_EQ(pool.Next()->ranks, 3);
}

TEST(HostPool, TheServersOwnHostStays) {
  HostPool pool(ThreeHosts(), {}, 2, true);
  EXPECT_FALSE(pool.Lose("n1"));
  EXPECT_FALSE(pool.Lose("elsewhere"));
  EXPECT_TRUE(pool.Lose("n2"));
  EXPECT_TRUE(pool.Lose("n3"));
  EXPECT_EQ(pool.Next()->ranks, 1) << "at least";
}

}  // namespace
}  // namespace tandem::launcher
