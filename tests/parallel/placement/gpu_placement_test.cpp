#include "parallel/placement/gpu_placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "parallel/communicators/thread_communicator.h"

namespace tandem::parallel {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Hosts = std::vector<std::string>;
using Wishes = std::vector<GpuWish>;

/// Everyone's GPU.
std::vector<int> Places(const Hosts& hosts, const Wishes& wishes, bool share = false) {
  const auto placements = PlaceGpus(hosts, wishes, share);
  EXPECT_TRUE(placements.ok()) << placements.status();
  std::vector<int> places;
  for (const GpuPlacement& placement : *placements) places.push_back(placement.place);
  return places;
}

std::string Refusal(const Hosts& hosts, const Wishes& wishes) {
  const absl::Status status = PlaceGpus(hosts, wishes, false).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  return Message(status);
}

TEST(GpuPlacement, RanksOfAHostTakeItsGpusInOrder) {
  const GpuWish both{.wanted = true, .gpus = {"a", "b"}};
  const GpuWish others{.wanted = true, .gpus = {"c", "d", "e"}};
  EXPECT_THAT(Places({"n1", "n2", "n1", "n2"}, {both, others, both, others}),
              ElementsAre(0, 0, 1, 1));
}

TEST(GpuPlacement, RanksThatWereGivenTheirOwnTakeIt) {
  EXPECT_THAT(
      Places({"n1", "n1"}, {{.wanted = true, .gpus = {"a"}}, {.wanted = true, .gpus = {"b"}}}),
      ElementsAre(0, 0));
  // Or what the others left.
  EXPECT_THAT(Places({"n1", "n1"},
                     {{.wanted = true, .gpus = {"a", "b"}}, {.wanted = true, .gpus = {"a", "b"}}}),
              ElementsAre(0, 1));
}

TEST(GpuPlacement, ARankOnACpuTakesNone) {
  EXPECT_THAT(Places({"n1", "n1"}, {{}, {.wanted = true, .gpus = {"a"}}}), ElementsAre(0, 0));
}

TEST(GpuPlacement, MoreRanksThanGpusAreRefusedByName) {
  const GpuWish both{.wanted = true, .gpus = {"a", "b"}};
  EXPECT_THAT(Refusal({"n1", "n2", "n2", "n2"}, {both, both, both, both}),
              ::testing::AllOf(HasSubstr("host n2 has 3 ranks and 2 GPUs"),
                               HasSubstr("no more than 2 ranks"), HasSubstr("--share-gpus")));
  const GpuWish one{.wanted = true, .gpus = {"a"}};
  EXPECT_THAT(Refusal({"n1", "n1"}, {one, one}), HasSubstr("host n1 has 2 ranks and 1 GPU;"));
}

TEST(GpuPlacement, ToldToTheyShareInTurn) {
  const GpuWish both{.wanted = true, .gpus = {"a", "b"}};
  const Hosts hosts(5, "n1");
  const Wishes wishes(5, both);
  EXPECT_THAT(Places(hosts, wishes, true), ElementsAre(0, 1, 0, 1, 0));
  const auto placements = PlaceGpus(hosts, wishes, true);
  EXPECT_EQ((*placements)[0].sharers, 3);
  EXPECT_EQ((*placements)[1].sharers, 2);
}

TEST(GpuPlacement, AllRanksAgree) {
  auto worlds = MakeThreadWorld(2);
  for (const bool share : {true, false}) {
    std::vector<absl::StatusOr<GpuPlacement>> placements(2);
    std::vector<std::thread> ranks;
    for (size_t rank = 0; rank < 2; ++rank) {
      ranks.emplace_back([&, rank] {
        placements[rank] = AgreeOnGpus(*worlds[rank], {.wanted = true, .gpus = {"a"}}, share);
      });
    }
    for (std::thread& rank : ranks) rank.join();
    for (const auto& placement : placements) {
      EXPECT_EQ(placement.ok(), share) << placement.status();
      if (placement.ok()) {
        EXPECT_EQ(placement->sharers, 2);
      }
    }
  }
}

TEST(GpuPlacement, RanksOnCpusAndOnGpusAreNoJob) {
  ThreadWorldOptions options;
  options.hosts = {"n1", "n2"};
  auto worlds = MakeThreadWorld(2, options);
  std::vector<absl::StatusOr<GpuPlacement>> placements(2);
  std::vector<std::thread> ranks;
  for (size_t rank = 0; rank < 2; ++rank) {
    ranks.emplace_back([&, rank] {
      GpuWish wish{.wanted = rank == 0, .gpus = {}};
      if (wish.wanted) wish.gpus = {"a"};
      placements[rank] = AgreeOnGpus(*worlds[rank], wish, false);
    });
  }
  for (std::thread& rank : ranks) rank.join();
  for (const auto& placement : placements) {
    EXPECT_EQ(placement.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(Message(placement.status()),
                HasSubstr("rank 1 on host n2 computes on a CPU, but rank 0 on host n1 on a GPU"));
  }
}

}  // namespace
}  // namespace tandem::parallel
