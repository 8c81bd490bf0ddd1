#include "parallel/placement/world_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "parallel/communicators/one_rank_communicator.h"
#include "parallel/communicators/thread_communicator.h"
#include "tests/parallel/communicators/thread_ranks.h"

namespace tandem::parallel {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

EngineIdentity Identity() {
  return {"0.1.0", "1", 0x1234, 0xABCD, {{"activations", "q8"}, {"kv dtype", "f16"}}};
}

/// Each rank's identity is spoiled by `spoil(rank, identity)`; all must get the same message.
template <typename Spoil>
std::string Refusal(int ranks, Spoil spoil) {
  ThreadWorldOptions options;
  for (int rank = 0; rank < ranks; ++rank) options.hosts.push_back(fmt::format("n{}", rank));
  const auto statuses = RunRanks(MakeThreadWorld(ranks, options), [&](Communicator& world) {
    EngineIdentity identity = Identity();
    spoil(world.rank(), identity);
    return CheckWorld(world, FactsOf(identity));
  });
  for (const absl::Status& status : statuses) {
    EXPECT_EQ(status, statuses[0]);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  }
  return Message(statuses[0]);
}

TEST(CheckWorld, EqualRanksPass) {
  for (const int ranks : {1, 2, 5}) {
    const auto statuses = RunRanks(MakeThreadWorld(ranks), [](Communicator& world) {
      return CheckWorld(world, FactsOf(Identity()));
    });
    for (const absl::Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
  }
  OneRankCommunicator alone;
  EXPECT_TRUE(CheckWorld(alone, FactsOf(Identity())).ok());
  EXPECT_TRUE(CheckWorld(alone, {}).ok());
}

TEST(CheckWorld, NamesFactRankAndHostOnEveryRank) {
  const std::string message = Refusal(3, [](int rank, EngineIdentity& identity) {
    if (rank == 2) identity.model_fingerprint = 0x9999;
  });
  EXPECT_THAT(message,
              HasSubstr("rank 2 on host n2 has model fingerprint '0000000000009999'; expected "
                        "'0000000000001234' as on rank 0 on host n0, rank 1 on host n1"));
  EXPECT_THAT(message, Not(HasSubstr("plan")));
}

TEST(CheckWorld, TheMajorityIsExpectedEvenAgainstRankZero) {
  EXPECT_THAT(Refusal(3,
                      [](int rank, EngineIdentity& identity) {
                        if (rank == 0) identity.program_version = "0.0.9";
                      }),
              HasSubstr("rank 0 on host n0 has program version '0.0.9'; expected '0.1.0'"));
}

TEST(CheckWorld, OfTwoRanksTheFirstIsExpected) {
  EXPECT_THAT(Refusal(2,
                      [](int rank, EngineIdentity& identity) {
                        if (rank == 0) identity.numerics_version = "2";
                      }),
              HasSubstr("rank 1 on host n1 has numerics version '1'; expected '2'"));
}

TEST(CheckWorld, SaysAllDifferences) {
  const std::string message = Refusal(4, [](int rank, EngineIdentity& identity) {
    if (rank == 1) identity.plan_hash = 1;
    if (rank == 3) identity.options[0].value = "f32";
  });
  EXPECT_THAT(message, HasSubstr("rank 1 on host n1 has shard plan '0000000000000001'"));
  EXPECT_THAT(message, HasSubstr("rank 3 on host n3 has activations 'f32'; expected 'q8'"));
}

TEST(CheckWorld, FactsOfDifferentLengthAndNumberAreCompared) {
  EXPECT_THAT(Refusal(3,
                      [](int rank, EngineIdentity& identity) {
                        if (rank == 1) identity.options.clear();
                      }),
              HasSubstr("rank 1 on host n1 has kv dtype '(not told)'; expected 'f16'"));
  EXPECT_THAT(Refusal(3,
                      [](int rank, EngineIdentity& identity) {
                        if (rank == 1) identity.options.push_back({"new option", "on"});
                      }),
              HasSubstr("has new option 'on'; expected '(not told)'"));
  EXPECT_THAT(Refusal(2,
                      [](int rank, EngineIdentity& identity) {
                        if (rank == 1) identity.program_version = std::string(5000, 'x');
                      }),
              HasSubstr("xxxx"));
}

TEST(CheckWorld, ManyRanksAreNotAllNamed) {
  const std::string message = Refusal(12, [](int rank, EngineIdentity& identity) {
    if (rank == 11) identity.plan_hash = 1;
  });
  EXPECT_THAT(message, HasSubstr("and 3 more"));
}

TEST(CheckWorld, ACommunicatorsErrorComesBack) {
  const auto statuses = RunRanks(MakeThreadWorld(2), [](Communicator& world) {
    if (world.rank() == 0) return absl::OkStatus();
    return CheckWorld(world, FactsOf(Identity()));
  });
  EXPECT_EQ(statuses[1].code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace tandem::parallel
