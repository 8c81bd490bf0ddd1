#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "parallel/communicators/mpi_communicator.h"
#include "parallel/communicators/one_rank_communicator.h"
#include "parallel/communicators/thread_communicator.h"
#include "tests/parallel/communicators/communicator_suite.h"
#include "tests/parallel/communicators/thread_ranks.h"

namespace tandem::parallel {
namespace {

using ::testing::HasSubstr;

constexpr core::StepPhase kFeedForwardPhase = {5, 2, core::StepPhase::Kind::kFeedForward};

class ThreadWorldSuite : public ::testing::TestWithParam<int> {};

void RunWholeSuite(int ranks, const ThreadWorldOptions& options) {
  const auto statuses = RunRanks(MakeThreadWorld(ranks, options), [](Communicator& world) {
    for (const CommunicatorCase& each : CommunicatorSuite()) {
      if (absl::Status status = each.run(world); !status.ok()) {
        return Internal("{}: {}", each.name, Message(status));
      }
    }
    return absl::OkStatus();
  });
  for (int rank = 0; rank < ranks; ++rank) {
    EXPECT_TRUE(statuses[static_cast<size_t>(rank)].ok())
        << "rank " << rank << ": " << statuses[static_cast<size_t>(rank)];
  }
}

TEST_P(ThreadWorldSuite, Passes) { RunWholeSuite(GetParam(), {}); }

TEST_P(ThreadWorldSuite, PassesWhenDisturbed) {
  ThreadWorldOptions options;
  options.disturbance = std::chrono::microseconds(200);
  options.disturbance_seed = static_cast<uint64_t>(GetParam());
  options.timeout = std::chrono::seconds(60);
  RunWholeSuite(GetParam(), options);
}

INSTANTIATE_TEST_SUITE_P(Ranks, ThreadWorldSuite, ::testing::Values(1, 2, 3, 5, 7, 9));

TEST(OneRankCommunicator, PassesTheSuite) {
  OneRankCommunicator world;
  for (const CommunicatorCase& each : CommunicatorSuite()) {
    EXPECT_TRUE(each.run(world).ok()) << each.name;
  }
}

TEST(OneRankCommunicator, ErrorsStick) {
  OneRankCommunicator world;
  world.Abort(Internal("first"));
  world.Abort(Internal("second"));
  EXPECT_THAT(Message(world.Barrier()), HasSubstr("first"));
  std::vector<int64_t> values = {1};
  EXPECT_FALSE(world.AllReduceSum(values, kFeedForwardPhase).ok());
}

TEST(ThreadWorld, ARankThatLeavesWakesTheOthersAndIsNamed) {
  ThreadWorldOptions options;
  options.hosts = {"alpha", "beta", "gamma"};
  const auto statuses = RunRanks(MakeThreadWorld(3, options), [](Communicator& world) {
    TANDEM_RETURN_IF_ERROR(world.Barrier());
    if (world.rank() == 1) return absl::OkStatus();
    std::vector<int64_t> values = {1};
    return world.AllReduceSum(values, kFeedForwardPhase);
  });
  EXPECT_TRUE(statuses[1].ok());
  for (const size_t rank : {0U, 2U}) {
    EXPECT_EQ(statuses[rank].code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(Message(statuses[rank]), HasSubstr("rank 1 on host beta has left"));
  }
}

TEST(ThreadWorld, AbortNamesRankAndReasonAndSticks) {
  const auto statuses = RunRanks(MakeThreadWorld(4), [](Communicator& world) {
    if (world.rank() == 2) world.Abort(ResourceExhausted("no memory left"));
    std::vector<int64_t> values = {1};
    const absl::Status first = world.AllReduceSum(values, kFeedForwardPhase);
    const absl::Status second = world.Barrier();
    return first == second ? first : Internal("{} then {}", Message(first), Message(second));
  });
  for (const absl::Status& status : statuses) {
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_THAT(Message(status), HasSubstr("rank 2 on host"));
    EXPECT_THAT(Message(status), HasSubstr("no memory left"));
  }
}

TEST(ThreadWorld, ARankThatDoesSomethingElseIsNamed) {
  const auto statuses = RunRanks(MakeThreadWorld(2), [](Communicator& world) {
    std::vector<int64_t> values(world.rank() == 0 ? 3 : 4);
    return world.AllReduceSum(values, kFeedForwardPhase);
  });
  for (const absl::Status& status : statuses) {
    EXPECT_THAT(Message(status), HasSubstr("all-reduce of 3 elements in step 5, layer 2"));
    EXPECT_THAT(Message(status), HasSubstr("all-reduce of 4 elements"));
  }
}

TEST(ThreadWorld, ADifferentPhaseIsADisagreement) {
  const auto statuses = RunRanks(MakeThreadWorld(2), [](Communicator& world) {
    std::vector<int64_t> values(1);
    return world.AllReduceSum(values, {5, world.rank(), core::StepPhase::Kind::kAttention});
  });
  for (const absl::Status& status : statuses) EXPECT_FALSE(status.ok());
}

TEST(ThreadWorld, AGatherWithWrongRoomFails) {
  const auto statuses = RunRanks(MakeThreadWorld(2), [](Communicator& world) {
    std::vector<std::byte> mine(4);
    std::vector<std::byte> all(world.rank() == 0 ? 8 : 7);
    return world.AllGather(mine, all, kFeedForwardPhase);
  });
  for (const absl::Status& status : statuses) {
    EXPECT_THAT(Message(status), HasSubstr("room for 7 bytes, expected 2 times 4"));
  }
}

TEST(ThreadWorld, ALateRankIsNamedWithWhereItWasSeen) {
  ThreadWorldOptions options;
  options.timeout = std::chrono::milliseconds(50);
  options.hosts = {"alpha", "beta", "gamma"};
  auto worlds = MakeThreadWorld(3, options);
  // Rank 2 never comes back, but does not leave either.
  std::unique_ptr<Communicator> late = std::move(worlds[2]);
  worlds.pop_back();
  std::thread once([&late] { EXPECT_TRUE(late->Barrier().ok()); });
  const auto statuses = RunRanks(std::move(worlds), [](Communicator& world) {
    TANDEM_RETURN_IF_ERROR(world.Barrier());
    std::vector<int64_t> values = {1};
    return world.AllReduceSum(values, kFeedForwardPhase);
  });
  once.join();
  for (const absl::Status& status : statuses) {
    EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_THAT(Message(status), HasSubstr("rank 2 on host gamma (last seen: barrier"));
  }
}

TEST(ThreadWorld, CountsRanksOfAHost) {
  ThreadWorldOptions options;
  options.hosts = {"a", "b", "a", "b", "b"};
  const auto worlds = MakeThreadWorld(5, options);
  const std::vector<int> local_ranks = {0, 0, 1, 1, 2};
  for (size_t r = 0; r < worlds.size(); ++r) {
    EXPECT_EQ(worlds[r]->local_rank(), local_ranks[r]);
    EXPECT_EQ(worlds[r]->local_size(), options.hosts[r] == "a" ? 2 : 3);
  }
}

TEST(CreateWorld, WithoutAJobIsOneRankAndNoMore) {
  ASSERT_FALSE(StartedByMpi()) << "run this program without mpirun";
  const auto world = CreateWorld({});
  ASSERT_TRUE(world.ok());
  EXPECT_EQ((*world)->size(), 1);
  EXPECT_TRUE(CreateWorld({.expected_ranks = 1}).ok());
  const auto refused = CreateWorld({.expected_ranks = 4});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(refused.status()), HasSubstr("mpirun -n 4"));
}

TEST(PhaseText, SaysWhere) {
  EXPECT_EQ(PhaseText({12, 3, core::StepPhase::Kind::kAttention}), "step 12, layer 3, attention");
  EXPECT_EQ(PhaseText({1, -1, core::StepPhase::Kind::kVocabulary}), "step 1, vocabulary");
  EXPECT_EQ(PhaseText({}), "step 0");
}

}  // namespace
}  // namespace tandem::parallel
