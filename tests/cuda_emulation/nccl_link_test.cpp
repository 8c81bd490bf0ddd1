// NCCL's link among emulated GPUs, by the fake library of tests/cuda_emulation/fake_nccl.

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "core/device/device.h"
#include "core/formats/model_file.h"
#include "parallel/communicators/thread_communicator.h"
#include "parallel/communicators/watchdog.h"
#include "parallel/sharding/shard_plan.h"
#include "tests/cuda_emulation/gpus.h"
#include "tests/cuda_emulation/linked_ranks.h"
#include "tests/parallel/communicators/communicator_suite.h"
#include "tests/parallel/communicators/thread_ranks.h"
#include "tests/support/forward_runner.h"
#include "tests/support/random.h"
#include "tests/support/tiny_model.h"

namespace tandem::parallel {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr core::StepPhase kPhase = {7, 3, core::StepPhase::Kind::kAttention};

/// A GPU for each rank, and one for all afterwards.
class NcclLinks : public ::testing::Test {
 protected:
  NcclLinks() { cuda_emulation::SetGpus({.count = 9}); }
  ~NcclLinks() override {
    cuda_emulation::SetGpus({});
    for (const char* name : {"EMULATED_NCCL_STALL", "EMULATED_NCCL_VERSION",
                             "EMULATED_NCCL_WINDOWS", "NCCL_MULTI_RANK_GPU_ENABLE"}) {
      unsetenv(name);
    }
  }
};

class NcclSuite : public NcclLinks, public ::testing::WithParamInterface<int> {};

TEST_P(NcclSuite, Passes) {
  const auto statuses = RunRanks(MakeThreadWorld(GetParam()), [](Communicator& world) {
    LinkedRank rank(world, world.rank());
    TANDEM_RETURN_IF_ERROR(rank.Link({.nccl = true}));
    OnDevices devices(*rank.linked, *rank.device);
    for (const CommunicatorCase& each : CommunicatorSuite()) {
      if (absl::Status status = each.run(devices); !status.ok()) {
        return Internal("{}: {}", each.name, Message(status));
      }
    }
    return absl::OkStatus();
  });
  for (const absl::Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
}

INSTANTIATE_TEST_SUITE_P(Ranks, NcclSuite, ::testing::Values(1, 2, 3, 5, 8));

/// A model on ranks that are joined has the bits of one rank on a CPU.
class NcclForward : public NcclLinks,
                    public ::testing::WithParamInterface<testing::TinyModelShape> {};

TEST_P(NcclForward, GivesTheBitsOfTheCpu) {
  const std::vector<std::byte> bytes = testing::TinyModel(GetParam().spec);
  const auto file = core::ModelFile::OpenBuffer(bytes, GetParam().name);
  ASSERT_TRUE(file.ok()) << file.status();
  const std::vector<int32_t> tokens = testing::RandomTokens(40, GetParam().spec.vocab, 3);
  const auto expected = testing::RunForward(**file, tokens, {.isa = core::Isa::kAvx2});
  ASSERT_TRUE(expected.ok()) << expected.status();
  for (const int ranks : {2, 3}) {
    if (ranks > LargestRankCount((*file)->config())) continue;
    testing::ForwardOptions options{.ranks = ranks, .chunks = {33, 1, 5}};
    options.linker = [] { return core::OpenLinker(core::DeviceKind::kCuda); };
    std::atomic<int> gpu = 0;
    options.device = [&](const core::ModelConfig& config, const core::Shard& shard) {
      return core::MakeDevice({.kind = core::DeviceKind::kCuda,
                               .cpu = {},
                               .gpu = {.index = gpu++, .name = {}, .id = {}}},
                              config, shard);
    };
    const auto found = testing::RunForward(**file, tokens, options);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(std::memcmp(found->logits.data(), expected->logits.data(),
                          expected->logits.size() * sizeof(float)),
              0)
        << ranks << " ranks";
  }
}

/// Fast mode reduces floats: so near to its own single rank as rounding twice is.
TEST_P(NcclForward, InFastModeIsNearOneRank) {
  const std::vector<std::byte> bytes = testing::TinyModel(GetParam().spec);
  const auto file = core::ModelFile::OpenBuffer(bytes, GetParam().name);
  ASSERT_TRUE(file.ok()) << file.status();
  const std::vector<int32_t> tokens = testing::RandomTokens(12, GetParam().spec.vocab, 4);
  const auto run = [&](int ranks) {
    testing::ForwardOptions options{.ranks = ranks, .chunks = {6, 1}};
    if (ranks > 1) options.linker = [] { return core::OpenLinker(core::DeviceKind::kCuda); };
    std::atomic<int> gpu = 0;
    options.device = [&](const core::ModelConfig& config, const core::Shard& shard) {
      return core::MakeDevice({.kind = core::DeviceKind::kCuda,
                               .cpu = {},
                               .gpu = {.index = gpu++, .name = {}, .id = {}},
                               .exact = false},
                              config, shard);
    };
    return testing::RunForward(**file, tokens, options);
  };
  const auto expected = run(1);
  const auto found = run(2);
  ASSERT_TRUE(expected.ok() && found.ok()) << found.status();
  const auto [least, most] = std::minmax_element(expected->logits.begin(), expected->logits.end());
  for (size_t i = 0; i < expected->logits.size(); ++i) {
    EXPECT_NEAR(found->logits[i], expected->logits[i], 0.01F * (*most - *least));
  }
  EXPECT_EQ(found->token_failed, expected->token_failed);
}

/// Reductions of this process that NCCL did in windows so far.
uint64_t ReductionsInWindows() {
  void* const library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  return reinterpret_cast<uint64_t (*)()>(dlsym(library, "fakeNcclInWindow"))();
}

/// Floats are reduced in windows where NCCL has them, with the same bits.
TEST_P(NcclForward, ReducesFloatsInWindows) {
  const std::vector<std::byte> bytes = testing::TinyModel(GetParam().spec);
  const auto file = core::ModelFile::OpenBuffer(bytes, GetParam().name);
  ASSERT_TRUE(file.ok()) << file.status();
  const std::vector<int32_t> tokens = testing::RandomTokens(12, GetParam().spec.vocab, 5);
  const auto run = [&](bool exact, uint64_t& in_windows) {
    testing::ForwardOptions options{.ranks = 2, .chunks = {6, 1}, .floats = !exact};
    options.linker = [] { return core::OpenLinker(core::DeviceKind::kCuda); };
    std::atomic<int> gpu = 0;
    options.device = [&](const core::ModelConfig& config, const core::Shard& shard) {
      return core::MakeDevice({.kind = core::DeviceKind::kCuda,
                               .cpu = {},
                               .gpu = {.index = gpu++, .name = {}, .id = {}},
                               .exact = exact},
                              config, shard);
    };
    const uint64_t before = ReductionsInWindows();
    auto found = testing::RunForward(**file, tokens, options);
    in_windows = ReductionsInWindows() - before;
    return found;
  };
  uint64_t reductions = 0;
  ASSERT_TRUE(run(true, reductions).ok());
  EXPECT_EQ(reductions, 0);
  const auto expected = run(false, reductions);
  ASSERT_TRUE(expected.ok()) << expected.status();
  EXPECT_GT(reductions, 0);
  for (const auto& [name, value] :
       {std::pair{"EMULATED_NCCL_WINDOWS", "0"}, std::pair{"EMULATED_NCCL_WINDOWS", "full"},
        std::pair{"EMULATED_NCCL_VERSION", "22602"}}) {
    setenv(name, value, 1);
    const auto found = run(false, reductions);
    unsetenv(name);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(reductions, 0) << name << "=" << value;
    EXPECT_EQ(found->logits, expected->logits) << name << "=" << value;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, NcclForward, ::testing::ValuesIn(testing::AttentionShapes()),
                         [](const auto& of) { return std::string(of.param.name); });

TEST_F(NcclLinks, ARankThatLeavesIsToldToTheOthers) {
  const auto statuses = RunRanks(MakeThreadWorld(3), [](Communicator& world) {
    LinkedRank rank(world, world.rank());
    TANDEM_RETURN_IF_ERROR(rank.Link({.nccl = true}));
    OnDevices devices(*rank.linked, *rank.device);
    TANDEM_RETURN_IF_ERROR(Reduce(devices, {}));
    if (world.rank() == 1) return absl::OkStatus();
    const absl::Status first = Reduce(devices, kPhase);
    const absl::Status second = Reduce(devices, kPhase);
    return second.ok() ? Internal("the second went well") : first;
  });
  EXPECT_TRUE(statuses[1].ok()) << statuses[1];
  for (const size_t rank : {0U, 2U}) {
    EXPECT_EQ(statuses[rank].code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(Message(statuses[rank]),
                AllOf(HasSubstr(fmt::format("rank {} on host", rank)),
                      HasSubstr("step 7, layer 3, attention"), HasSubstr("NCCL 2.28.9 on GPU"),
                      HasSubstr("remote process exited")));
  }
}

TEST_F(NcclLinks, TheWatchdogNamesTheReductionThatHangs) {
  setenv("EMULATED_NCCL_STALL", "1:3", 1);
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
  const auto statuses = RunRanks(MakeThreadWorld(2), [&](Communicator& world) {
    LinkedRank rank(world, world.rank());
    TANDEM_RETURN_IF_ERROR(rank.Link({.nccl = true}));
    {
      const MutexLock lock(mutex);
      linked[static_cast<size_t>(world.rank())] = rank.linked.get();
    }
    TANDEM_RETURN_IF_ERROR(world.Barrier());
    rank.linked->PublishTo(&board);
    OnDevices devices(*rank.linked, *rank.device);
    for (int i = 0; i < 2; ++i) TANDEM_RETURN_IF_ERROR(Reduce(devices, {}));
    const absl::Status status = Reduce(devices, kPhase);
    const MutexLock lock(mutex);
    return status;
  });
  EXPECT_GE(reports, 1);
  EXPECT_THAT(text, HasSubstr("in step 7, layer 3, attention"));
  for (const absl::Status& status : statuses) {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  }
}

std::string LinkProblem(bool shares_gpu, int ranks = 2) {
  const auto statuses = RunRanks(MakeThreadWorld(ranks), [&](Communicator& world) {
    LinkedRank rank(world, shares_gpu ? 0 : world.rank());
    return rank.Link({.nccl = true, .shares_device = shares_gpu});
  });
  for (const absl::Status& status : statuses) EXPECT_EQ(Message(status), Message(statuses[0]));
  return Message(statuses[0]);
}

TEST_F(NcclLinks, AnOldNcclIsRefusedByItsVersion) {
  setenv("EMULATED_NCCL_VERSION", "21304", 1);
  EXPECT_THAT(LinkProblem(false),
              AllOf(HasSubstr("rank 0 on host"),
                    HasSubstr("NCCL 2.13.4 is too old; install NCCL 2.14.0 or later")));
  setenv("EMULATED_NCCL_VERSION", "2804", 1);
  EXPECT_THAT(LinkProblem(false), HasSubstr("NCCL before 2.9 is too old"));
}

TEST_F(NcclLinks, RanksShareAGpuWhereNcclCan) {
  EXPECT_THAT(LinkProblem(true), HasSubstr("ranks share GPUs, which NCCL 2.28.9 does not join"));
  setenv("EMULATED_NCCL_VERSION", "23003", 1);
  EXPECT_EQ(LinkProblem(true), "");
}

TEST_F(NcclLinks, DevicesOfCpusHaveNone) {
  const auto linker = core::OpenLinker(core::DeviceKind::kCpu);
  ASSERT_TRUE(linker.ok());
  EXPECT_EQ(*linker, nullptr);
}

}  // namespace
}  // namespace tandem::parallel
