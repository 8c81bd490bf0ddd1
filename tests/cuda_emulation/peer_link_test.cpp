// Emulated GPUs of one host, joined by memory that all of them map.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "core/system/host_name.h"
#include "parallel/communicators/thread_communicator.h"
#include "parallel/communicators/watchdog.h"
#include "parallel/sharding/shard_plan.h"
#include "tests/cuda_emulation/gpus.h"
#include "tests/cuda_emulation/linked_ranks.h"
#include "tests/cuda_emulation/streams.h"
#include "tests/parallel/communicators/communicator_suite.h"
#include "tests/parallel/communicators/thread_ranks.h"
#include "tests/support/forward_runner.h"
#include "tests/support/random.h"

namespace tandem::parallel {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr core::StepPhase kPeerPhase = {7, 3, core::StepPhase::Kind::kAttention};

/// A GPU for each rank, and one for all afterwards.
class PeerLinks : public ::testing::Test {
 protected:
  PeerLinks() { cuda_emulation::SetGpus({.count = 9}); }
  ~PeerLinks() override {
    cuda_emulation::SetGpus({});
    unsetenv("EMULATED_NCCL_DELAY");
    unsetenv("EMULATED_NCCL_VERSION");
  }
};

/// What each rank says of body(its rank, joined).
template <typename Body>
std::vector<absl::Status> RunPeers(int ranks, const Body& body) {
  return RunRanks(MakeThreadWorld(ranks), [&](Communicator& world) {
    LinkedRank rank(world, world.rank());
    TANDEM_RETURN_IF_ERROR(rank.Link({.peers = true}));
    return body(rank);
  });
}

absl::Status RunSuite(LinkedRank& rank) {
  OnDevices devices(*rank.linked, *rank.device);
  for (const CommunicatorCase& each : CommunicatorSuite()) {
    if (absl::Status status = each.run(devices); !status.ok()) {
      return Internal("{}: {}", each.name, Message(status));
    }
  }
  return absl::OkStatus();
}

class PeerSuite : public PeerLinks, public ::testing::WithParamInterface<int> {};

TEST_P(PeerSuite, Passes) {
  for (const absl::Status& status : RunPeers(GetParam(), RunSuite)) {
    EXPECT_TRUE(status.ok()) << status;
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, PeerSuite, ::testing::Values(1, 2, 3, 5, 8));

/// Values that lie at any address, of which some are in the last, small piece.
TEST_F(PeerLinks, ReduceInPiecesWhereverValuesLie) {
  for (const size_t skip : {size_t{0}, size_t{1}, size_t{3}}) {
    for (const size_t count : {size_t{5}, size_t{262144 - 512}, size_t{600001}}) {
      const auto statuses = RunPeers(3, [&](LinkedRank& rank) -> absl::Status {
        // Of each rank at another place.
        const size_t before = skip * static_cast<size_t>(rank.world.rank());
        std::vector<float> values(before + count);
        for (size_t i = 0; i < count; ++i) {
          values[before + i] = static_cast<float>((i % 1000) << rank.world.rank());
        }
        auto& memory = static_cast<core::CudaMemory&>(rank.device->memory());
        const auto sent = Sent(memory, std::as_bytes(std::span<const float>(values)));
        const std::span<float> there(reinterpret_cast<float*>(sent.get()) + before, count);
        core::DeviceLink& link = *rank.linked->device_link();
        TANDEM_RETURN_IF_ERROR(link.AllReduceSum(there));
        TANDEM_RETURN_IF_ERROR(link.Finish(std::chrono::minutes(1)));
        const core::CopyRun run{sent.get(), reinterpret_cast<std::byte*>(values.data()),
                                values.size() * sizeof(float)};
        TANDEM_RETURN_IF_ERROR(memory.CopyToHost({&run, 1}));
        for (size_t i = 0; i < count; ++i) {
          if (values[before + i] != static_cast<float>(i % 1000 * 7)) {
            return Internal("value {} of {} is {}", i, count, values[before + i]);
          }
        }
        return absl::OkStatus();
      });
      for (const absl::Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
    }
  }
}

/// Floats are added in rank order: the sum of these depends on it.
TEST_F(PeerLinks, FloatsAreAddedInRankOrder) {
  const std::vector<float> given = {0x1p24F, 1.0F, -0x1p24F, 1.0F, 3.0F};
  float expected = given[0];
  for (size_t rank = 1; rank < given.size(); ++rank) expected += given[rank];
  const auto statuses = RunPeers(5, [&](LinkedRank& rank) -> absl::Status {
    auto& memory = static_cast<core::CudaMemory&>(rank.device->memory());
    for (int time = 0; time < 20; ++time) {
      float value = given[static_cast<size_t>(rank.world.rank())];
      const auto sent = Sent(memory, std::as_bytes(std::span<const float>(&value, 1)));
      core::DeviceLink& link = *rank.linked->device_link();
      TANDEM_RETURN_IF_ERROR(
          link.AllReduceSum(std::span<float>(reinterpret_cast<float*>(sent.get()), 1)));
      TANDEM_RETURN_IF_ERROR(link.Finish(std::chrono::minutes(1)));
      const core::CopyRun run{sent.get(), reinterpret_cast<std::byte*>(&value), sizeof(value)};
      TANDEM_RETURN_IF_ERROR(memory.CopyToHost({&run, 1}));
      if (value != expected) return Internal("{} is not {}", value, expected);
    }
    return absl::OkStatus();
  });
  for (const absl::Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
}

class PeerForward : public PeerLinks,
                    public ::testing::WithParamInterface<testing::TinyModelShape> {
 protected:
  PeerForward()
      : bytes_(testing::TinyModel(GetParam().spec)),
        file_(*core::ModelFile::OpenBuffer(bytes_, GetParam().name)) {}

  /// Logits of `tokens` by ranks that are joined.
  absl::StatusOr<testing::ForwardResult> Run(std::span<const int32_t> tokens,
                                             testing::ForwardOptions options, bool exact) {
    options.peer_linker = [] { return core::OpenPeerLinker(core::DeviceKind::kCuda); };
    std::atomic<int> next = 0;
    options.device = [&](const core::ModelConfig& config, const core::Shard& shard) {
      return core::MakeDevice({.kind = core::DeviceKind::kCuda,
                               .cpu = {},
                               .gpu = {.index = next++, .name = {}, .id = {}},
                               .exact = exact},
                              config, shard);
    };
    return testing::RunForward(*file_, tokens, options);
  }

  const std::vector<std::byte> bytes_;
  const std::unique_ptr<core::ModelFile> file_;
};

/// Steps of one token come again: they are graphs, which go on counting.
TEST_P(PeerForward, GivesTheBitsOfTheCpu) {
  const std::vector<int32_t> tokens = testing::RandomTokens(40, GetParam().spec.vocab, 3);
  const auto expected = testing::RunForward(*file_, tokens, {.isa = core::Isa::kAvx2});
  ASSERT_TRUE(expected.ok()) << expected.status();
  for (const int ranks : {2, 3}) {
    if (ranks > LargestRankCount(file_->config())) continue;
    const uint64_t graphs = cuda_emulation::GraphLaunches();
    const auto found = Run(tokens, {.ranks = ranks, .chunks = {29, 1}}, true);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(std::memcmp(found->logits.data(), expected->logits.data(),
                          expected->logits.size() * sizeof(float)),
              0)
        << ranks << " ranks";
    EXPECT_GE(cuda_emulation::GraphLaunches() - graphs, 8U * static_cast<unsigned>(ranks));
  }
}

TEST_P(PeerForward, InFastModeHasTheSameBitsEachTime) {
  const std::vector<int32_t> tokens = testing::RandomTokens(12, GetParam().spec.vocab, 4);
  const auto first = Run(tokens, {.ranks = 2, .chunks = {6, 1}}, false);
  const auto second = Run(tokens, {.ranks = 2, .chunks = {6, 1}}, false);
  ASSERT_TRUE(first.ok() && second.ok()) << first.status();
  EXPECT_EQ(first->logits, second->logits);
}

INSTANTIATE_TEST_SUITE_P(Models, PeerForward, ::testing::ValuesIn(testing::AttentionShapes()),
                         [](const auto& of) { return std::string(of.param.name); });

TEST_F(PeerLinks, ARankThatLeavesIsToldToTheOthers) {
  const auto statuses = RunPeers(3, [](LinkedRank& rank) -> absl::Status {
    OnDevices devices(*rank.linked, *rank.device);
    TANDEM_RETURN_IF_ERROR(Reduce(devices, {}));
    if (rank.world.rank() == 1) return absl::OkStatus();
    const absl::Status first = Reduce(devices, kPeerPhase);
    const absl::Status second = Reduce(devices, kPeerPhase);
    return second.ok() ? Internal("the second went well") : first;
  });
  EXPECT_TRUE(statuses[1].ok()) << statuses[1];
  for (const size_t rank : {0U, 2U}) {
    EXPECT_EQ(statuses[rank].code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(Message(statuses[rank]),
                AllOf(HasSubstr(fmt::format("rank {} on host", rank)),
                      HasSubstr("step 7, layer 3, attention"), HasSubstr("peer memory on GPU"),
                      HasSubstr("rank 1 has ended")));
  }
}

/// Whoever has given what the others wait for may go before they have taken it.
TEST_F(PeerLinks, ARankMayLeaveWhoseLastWordsAreThere) {
  const auto statuses = RunPeers(3, [](LinkedRank& rank) -> absl::Status {
    OnDevices devices(*rank.linked, *rank.device);
    for (int i = 0; i < 5; ++i) {
      // It comes last, finds all others there, and goes at once.
      if (rank.world.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(20));
      TANDEM_RETURN_IF_ERROR(Reduce(devices, {}));
    }
    return absl::OkStatus();
  });
  for (const absl::Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
}

TEST_F(PeerLinks, TheWatchdogNamesTheReductionThatHangs) {
  ProgressBoard board({"n0", "n1"});
  std::atomic<int> reports = 0;
  std::string text;
  std::vector<LinkedCommunicator*> linked(2);
  Mutex mutex;
  const Watchdog watchdog(board, std::chrono::milliseconds(300), [&](const StalledCollective& s) {
    const MutexLock lock(mutex);
    if (reports++ == 0) text = s.text;
    for (LinkedCommunicator* world : linked) world->Abort(Unavailable("{}", s.text));
  });
  const auto statuses = RunPeers(2, [&](LinkedRank& rank) -> absl::Status {
    {
      const MutexLock lock(mutex);
      linked[static_cast<size_t>(rank.world.rank())] = rank.linked.get();
    }
    TANDEM_RETURN_IF_ERROR(rank.world.Barrier());
    rank.linked->PublishTo(&board);
    OnDevices devices(*rank.linked, *rank.device);
    for (int i = 0; i < 2; ++i) TANDEM_RETURN_IF_ERROR(Reduce(devices, {}));
    TANDEM_RETURN_IF_ERROR(rank.world.Barrier());
    if (rank.world.rank() == 0) cuda_emulation::SetGpus({.count = 9, .loses = 1, .loses_from = 1});
    TANDEM_RETURN_IF_ERROR(rank.world.Barrier());
    absl::Status status = Reduce(devices, kPeerPhase);
    if (status.ok()) status = Reduce(devices, kPeerPhase);
    const MutexLock lock(mutex);
    return status;
  });
  EXPECT_GE(reports, 1);
  EXPECT_THAT(text, HasSubstr("in step 7, layer 3, attention"));
  for (const absl::Status& status : statuses) {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_THAT(Message(status), HasSubstr("was given up"));
  }
}

/// The same error on all ranks.
std::string PeerProblem(const LinkOf& of, int ranks = 3, std::vector<std::string> hosts = {}) {
  const auto statuses =
      RunRanks(MakeThreadWorld(ranks, {.hosts = std::move(hosts)}), [&](Communicator& world) {
        LinkedRank rank(world, world.rank());
        return rank.Link(of);
      });
  for (const absl::Status& status : statuses) EXPECT_EQ(Message(status), Message(statuses[0]));
  return Message(statuses[0]);
}

TEST_F(PeerLinks, CardsThatDoNotReachOneAnotherAreNamed) {
  cuda_emulation::SetGpus({.count = 9, .without_peers = 2});
  EXPECT_EQ(PeerProblem({.peers = true}),
            "rank 0 on host " + core::HostName() +
                ": GPU 0 does not reach the memory of GPU 2 of rank 2: there is no peer access "
                "between them");
}

TEST_F(PeerLinks, RanksOfSeveralHostsAreRefused) {
  EXPECT_EQ(PeerProblem({.peers = true}, 3, {"n0", "n0", "n1"}),
            "peer memory joins ranks of one host, and there are rank 0 on host n0 and rank 2 on "
            "host n1");
}

TEST_F(PeerLinks, MoreRanksThanItJoinsAreRefused) {
  cuda_emulation::SetGpus({.count = 17});
  EXPECT_EQ(PeerProblem({.peers = true}, 17),
            "peer memory joins 16 ranks at most, and there are 17");
}

/// A card whose writes do not arrive is found before anything is computed; the start goes on
/// without.
TEST_F(PeerLinks, CardsThatLoseWritesAreFoundAtTheStart) {
  cuda_emulation::SetGpus({.count = 9, .loses = 1, .loses_from = 1});
  EXPECT_THAT(PeerProblem({.peers = true}, 2), HasSubstr("did not end within"));
}

/// What the ranks were told, which is the same for all.
std::string Note(const LinkOf& of, std::string& name) {
  std::vector<std::string> notes(2);
  std::vector<std::string> names(2);
  const auto statuses = RunRanks(MakeThreadWorld(2), [&](Communicator& world) {
    LinkedRank rank(world, world.rank());
    TANDEM_RETURN_IF_ERROR(rank.Link(of));
    const auto r = static_cast<size_t>(world.rank());
    notes[r] = rank.note;
    names[r] = rank.linked->link_name();
    return RunSuite(rank);
  });
  for (const absl::Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(notes[0], notes[1]);
  EXPECT_EQ(names[0], names[1]);
  name = names[0];
  return notes[0];
}

TEST_F(PeerLinks, BesideNcclTheyTakeWhatTheyDoFaster) {
  setenv("EMULATED_NCCL_DELAY", "30000", 1);
  std::string name;
  EXPECT_THAT(
      Note({.nccl = true, .peers = true}, name),
      ::testing::MatchesRegex("[0-9]+ KiB in [0-9.]+ us by peer memory, by NCCL 2.28.9 [0-9]+ "
                              "KiB in [0-9.]+ us"));
  EXPECT_THAT(name, ::testing::MatchesRegex("NCCL 2.28.9, and up to [0-9]+ KiB by peer memory"));
}

TEST_F(PeerLinks, NcclIsTakenAloneWhereTheyCannotBeJoined) {
  cuda_emulation::SetGpus({.count = 9, .without_peers = 0});
  std::string name;
  EXPECT_THAT(Note({.nccl = true, .peers = true}, name),
              HasSubstr("peer memory has no part in it: rank 0 on host"));
  EXPECT_EQ(name, "NCCL 2.28.9");
}

TEST_F(PeerLinks, TheyAreTakenWhereNcclIsNotThere) {
  setenv("EMULATED_NCCL_VERSION", "21304", 1);
  std::string name;
  EXPECT_THAT(Note({.nccl = true, .peers = true}, name), HasSubstr("NCCL 2.13.4 is too old"));
  EXPECT_EQ(name, "peer memory");
}

}  // namespace
}  // namespace tandem::parallel
