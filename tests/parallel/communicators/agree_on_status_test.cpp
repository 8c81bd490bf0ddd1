#include "parallel/communicators/agree_on_status.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "parallel/communicators/thread_communicator.h"
#include "tests/parallel/communicators/thread_ranks.h"

namespace tandem::parallel {
namespace {

/// What all ranks are told of these.
std::string Agreed(const std::vector<absl::Status>& of_ranks) {
  const auto ranks = static_cast<int>(of_ranks.size());
  ThreadWorldOptions options;
  for (int rank = 0; rank < ranks; ++rank) options.hosts.push_back(fmt::format("n{}", rank));
  const auto statuses = RunRanks(MakeThreadWorld(ranks, options), [&](Communicator& world) {
    return AgreeOnStatus(world, of_ranks[static_cast<size_t>(world.rank())]);
  });
  for (const absl::Status& status : statuses) EXPECT_EQ(status, statuses[0]);
  return Message(statuses[0]);
}

TEST(AgreeOnStatus, TellsTheFirstRanksError) {
  EXPECT_EQ(Agreed({absl::OkStatus(), absl::OkStatus()}), "");
  EXPECT_EQ(Agreed({absl::OkStatus(), Internal("b"), Internal("c")}), "rank 1 on host n1: b");
}

TEST(AgreeOnStatus, WhoWaitedInVainIsHeardLast) {
  const absl::Status late = absl::DeadlineExceededError("did not end");
  EXPECT_EQ(Agreed({late, late, Unavailable("no route")}), "rank 2 on host n2: no route");
  EXPECT_EQ(Agreed({absl::OkStatus(), late, late}), "rank 1 on host n1: did not end");
}

}  // namespace
}  // namespace tandem::parallel
