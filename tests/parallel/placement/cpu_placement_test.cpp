#include "parallel/placement/cpu_placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "parallel/communicators/thread_communicator.h"

namespace tandem::parallel {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

CpuSet Range(int begin, int end) {
  CpuSet cpus;
  for (int cpu = begin; cpu < end; ++cpu) cpus.push_back(cpu);
  return cpus;
}

std::vector<CpuCore> Cores(const std::string& description) {
  const auto cores = SyntheticCores(description);
  EXPECT_TRUE(cores.ok()) << cores.status();
  return *cores;
}

/// Everyone's placement on a host whose ranks may all use the same processors.
std::vector<CpuPlacement> Place(const std::string& host, const CpuSet& allowed, int ranks,
                                int threads, Pinning pinning) {
  const std::vector<CpuWish> wishes(static_cast<size_t>(ranks),
                                    {.allowed = allowed, .threads = threads});
  std::vector<CpuPlacement> placements;
  for (int rank = 0; rank < ranks; ++rank) {
    placements.push_back(PlaceRank(Cores(host), wishes, pinning, rank));
  }
  return placements;
}

TEST(CpuPlacement, ReadsThisHost) {
  const auto cores = CoresOfThisHost();
  ASSERT_TRUE(cores.ok()) << cores.status();
  CpuSet all;
  for (const CpuCore& core : *cores) all.insert(all.end(), core.cpus.begin(), core.cpus.end());
  for (const int cpu : AllowedCpus()) EXPECT_THAT(all, ::testing::Contains(cpu));
}

TEST(CpuPlacement, ReadsNodesCoresAndThreads) {
  const std::vector<CpuCore> cores = Cores("node:2 core:2 pu:2");
  ASSERT_EQ(cores.size(), 4U);
  EXPECT_EQ(cores[1].node, 0);
  EXPECT_EQ(cores[2].node, 1);
  EXPECT_THAT(cores[2].cpus, ElementsAre(4, 5));
  EXPECT_FALSE(SyntheticCores("two of them").ok());
}

TEST(CpuPlacement, DividesCoresNotHardwareThreads) {
  for (const CpuPlacement& p : Place("node:1 core:8 pu:2", Range(0, 16), 2, 0, Pinning::kNodes)) {
    EXPECT_EQ(p.threads, 4);
    EXPECT_TRUE(p.may_poll);
    EXPECT_THAT(p.cpus, IsEmpty());  // a single node: nothing to gain
    EXPECT_EQ(p.text, "");
  }
}

TEST(CpuPlacement, GivesEachRankANode) {
  const auto places = Place("node:2 core:4 pu:1", Range(0, 8), 2, 0, Pinning::kNodes);
  EXPECT_EQ(places[0].cpus, Range(0, 4));
  EXPECT_EQ(places[1].cpus, Range(4, 8));
  EXPECT_EQ(places[1].threads, 4);
  EXPECT_EQ(places[1].text, "bound to node 1");
}

TEST(CpuPlacement, PutsMoreRanksThanNodesOnNodesInTurn) {
  const auto places = Place("node:2 core:6 pu:1", Range(0, 12), 5, 2, Pinning::kNodes);
  for (size_t rank = 0; rank < 5; ++rank) {
    EXPECT_EQ(places[rank].cpus, rank % 2 == 0 ? Range(0, 6) : Range(6, 12)) << rank;
  }
  // Node 0 has three ranks, node 1 two.
  const auto free = Place("node:2 core:6 pu:1", Range(0, 12), 5, 0, Pinning::kNodes);
  EXPECT_EQ(free[0].threads, 2);
  EXPECT_EQ(free[1].threads, 3);
}

TEST(CpuPlacement, GivesARankSeveralNodesWhereRanksAreFew) {
  const auto places = Place("node:4 core:2 pu:1", Range(0, 8), 2, 0, Pinning::kNodes);
  EXPECT_EQ(places[0].cpus, Range(0, 4));
  EXPECT_EQ(places[1].cpus, Range(4, 8));
  EXPECT_EQ(places[1].text, "bound to nodes 2,3");
  EXPECT_THAT(Place("node:4 core:2 pu:1", Range(0, 8), 1, 0, Pinning::kNodes)[0].cpus, IsEmpty());
}

TEST(CpuPlacement, BindsEachThreadToACoreOnRequest) {
  const auto places = Place("node:2 core:4 pu:2", Range(0, 16), 3, 2, Pinning::kCores);
  EXPECT_THAT(places[0].thread_cpus, ElementsAre(ElementsAre(0, 1), ElementsAre(2, 3)));
  EXPECT_THAT(places[1].thread_cpus, ElementsAre(ElementsAre(8, 9), ElementsAre(10, 11)));
  EXPECT_THAT(places[2].thread_cpus, ElementsAre(ElementsAre(4, 5), ElementsAre(6, 7)));
  EXPECT_EQ(places[2].cpus, Range(4, 8));
}

TEST(CpuPlacement, NeitherBindsNorPollsWhereThreadsOutnumberProcessors) {
  for (const Pinning pinning : {Pinning::kNodes, Pinning::kCores}) {
    for (const CpuPlacement& p : Place("node:2 core:2 pu:1", Range(0, 4), 5, 1, pinning)) {
      EXPECT_FALSE(p.may_poll);
      EXPECT_THAT(p.cpus, IsEmpty());
      EXPECT_THAT(p.text, HasSubstr("more threads than cores"));
    }
  }
  const auto without_pinning = Place("node:1 core:2 pu:1", Range(0, 2), 3, 0, Pinning::kNone);
  EXPECT_EQ(without_pinning[0].threads, 1);
  EXPECT_FALSE(without_pinning[0].may_poll);
  // Hardware threads are enough to poll on, not to bind to.
  const auto hyper = Place("node:1 core:2 pu:2", Range(0, 4), 4, 1, Pinning::kCores);
  EXPECT_TRUE(hyper[0].may_poll);
  EXPECT_THAT(hyper[0].cpus, IsEmpty());
}

TEST(CpuPlacement, KeepsToWhatIsAllowed) {
  const CpuSet allowed = {2, 3, 5};
  const auto places = Place("node:2 core:4 pu:1", allowed, 2, 1, Pinning::kCores);
  EXPECT_THAT(places[0].cpus, ElementsAre(2));
  EXPECT_THAT(places[1].cpus, ElementsAre(5));
  EXPECT_EQ(Place("node:2 core:4 pu:1", allowed, 1, 0, Pinning::kNone)[0].threads, 3);
}

TEST(CpuPlacement, RanksThatMpirunBoundApartHaveTheirOwn) {
  const std::vector<CpuWish> wishes = {{.allowed = {0}}, {.allowed = {1}}};
  const CpuPlacement second = PlaceRank(Cores("node:1 core:2 pu:1"), wishes, Pinning::kCores, 1);
  EXPECT_EQ(second.threads, 1);
  EXPECT_TRUE(second.may_poll);
  EXPECT_THAT(second.cpus, ElementsAre(1));
}

TEST(CpuPlacement, RanksThatShareSomeProcessorsOnlyAreLeftAlone) {
  const std::vector<CpuWish> wishes = {{.allowed = {0, 1}}, {.allowed = {1, 2}}};
  const CpuPlacement p = PlaceRank(Cores("node:1 core:3 pu:1"), wishes, Pinning::kCores, 0);
  EXPECT_FALSE(p.may_poll);
  EXPECT_THAT(p.cpus, IsEmpty());
  EXPECT_THAT(p.text, HasSubstr("share some"));
}

TEST(CpuPlacement, BindsThreads) {
  const CpuSet last = {AllowedCpus().back()};
  std::thread([&] {
    ASSERT_TRUE(BindThisThread(last).ok());
    EXPECT_EQ(AllowedCpus(), last);
    std::thread([&] { EXPECT_EQ(AllowedCpus(), last); }).join();
  }).join();
  EXPECT_THAT(Message(BindThisThread({100000})), HasSubstr("--pin none"));
}

TEST(CpuPlacement, IsAgreedOnByTheRanksOfAHost) {
  auto worlds = MakeThreadWorld(3, {.hosts = {"a", "a", "b"}});
  std::vector<CpuPlacement> places(3);
  std::vector<std::thread> threads;
  for (size_t rank = 0; rank < 3; ++rank) {
    threads.emplace_back([&, rank] {
      places[rank] = *AgreeOnPlacement(*worlds[rank], Pinning::kNone, rank == 1 ? 100000 : 0);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(places[0].may_poll);
  EXPECT_EQ(places[1].threads, 100000);
  EXPECT_TRUE(places[2].may_poll);
}

}  // namespace
}  // namespace tandem::parallel
