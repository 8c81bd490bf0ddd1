// What the CUDA device does where the runtime refuses a call, and with several GPUs.

#include <cuda_runtime.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <thread>

#include "core/cuda/cuda_driver.h"
#include "core/device/device.h"
#include "core/formats/model_file.h"
#include "core/system/host_name.h"
#include "tests/core/cuda/gpu.h"
#include "tests/cuda_emulation/gpus.h"
#include "tests/support/forward_runner.h"
#include "tests/support/random.h"
#include "tests/support/tiny_model.h"

namespace tandem::core {
namespace {

using testing::ForwardOptions;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;
using ::testing::MatchesRegex;
using testing::RandomTokens;
using testing::RunForward;
using testing::TinyModelSpec;

/// Other GPUs than one that works, until the end of a test.
class OtherGpus {
 public:
  explicit OtherGpus(const cuda_emulation::Gpus& gpus) { cuda_emulation::SetGpus(gpus); }
  ~OtherGpus() {
    cuda_emulation::SetGpus({});
    cuda_emulation::FailFrom(0, 0);
  }
};

class GpuFailure : public ::testing::Test {
 protected:
  GpuFailure() : bytes_(testing::TinyModel(Spec())) {
    auto file = ModelFile::OpenBuffer(bytes_, "tiny");
    EXPECT_TRUE(file.ok()) << file.status();
    file_ = std::move(file).value();
  }
  static TinyModelSpec Spec() {
    TinyModelSpec spec;
    spec.layers = 1;
    return spec;
  }
  /// On GPU `of(shard)`.
  template <typename Of>
  absl::StatusOr<testing::ForwardResult> Run(int ranks, const Of& of) {
    const auto gpus = FindGpus(DeviceKind::kCuda);
    EXPECT_TRUE(gpus.ok()) << gpus.status();
    ForwardOptions options{.ranks = ranks, .chunks = {2, 1}};
    options.device = [&](const ModelConfig& config, const Shard& shard) {
      return MakeDevice({.kind = DeviceKind::kCuda, .cpu = {}, .gpu = (*gpus)[of(shard)]}, config,
                        shard);
    };
    return RunForward(*file_, RandomTokens(3, file_->config().vocab, 4), options);
  }

  std::vector<std::byte> bytes_;
  std::unique_ptr<ModelFile> file_;
};

size_t First(const Shard&) { return 0; }

TEST_F(GpuFailure, OfAnyCallIsOneLineThatNamesHostGpuAndCall) {
  const OtherGpus one({});
  const int64_t before = cuda_emulation::Calls();
  const auto expected = Run(1, First);
  ASSERT_TRUE(expected.ok()) << expected.status();
  const int64_t calls = cuda_emulation::Calls() - before;
  std::set<std::string> failed;
  int64_t whole = 0;
  for (int64_t call = 1; call <= calls; ++call) {
    cuda_emulation::FailFrom(call, cudaErrorLaunchFailure);
    const auto found = Run(1, First);
    cuda_emulation::FailFrom(0, 0);
    if (found.ok()) {  // what is given back at the end may fail
      EXPECT_EQ(found->logits, expected->logits);
      ++whole;
      continue;
    }
    EXPECT_EQ(found.status().code(), absl::StatusCode::kUnavailable) << found.status();
    const std::string text = Message(found.status());
    const std::string begin = "CUDA on host " + HostName() + ", GPU 0 (Emulated GPU): ";
    const std::string end = " failed: unspecified launch failure";
    ASSERT_TRUE(text.starts_with(begin) && text.ends_with(end)) << text;
    failed.insert(text.substr(begin.size(), text.size() - begin.size() - end.size()));
  }
  EXPECT_THAT(failed,
              IsSupersetOf({"cudaSetDevice", "cudaMallocHost", "cudaMalloc", "cudaStreamCreate",
                            "cudaEventCreate", "cudaEventRecord", "cudaStreamWaitEvent",
                            "cudaMemcpyAsync", "cudaMemsetAsync", "cudaLaunchKernelEx",
                            "a copy to the GPU", "a copy from the GPU", "an upload to the GPU"}));
  EXPECT_LT(whole, calls / 3);
}

TEST_F(GpuFailure, ARankThatFailsEndsTheStepOfAll) {
  const OtherGpus two({.count = 2});
  const int64_t before = cuda_emulation::Calls();
  const auto of = [](const Shard& shard) { return shard.query_heads.begin == 0 ? 0U : 1U; };
  ASSERT_TRUE(Run(2, of).ok());
  cuda_emulation::FailFrom((cuda_emulation::Calls() - before) / 2, cudaErrorLaunchFailure);
  EXPECT_EQ(Run(2, of).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(GpuFailure, EveryMethodOfTheMemorySaysSo) {
  const OtherGpus one({});
  CudaMemory memory({.index = 0, .name = "G", .id = ""});
  const auto device = memory.Allocate(8);
  std::byte host[8] = {};
  const CopyRun run{device.get(), host, 8};
  cuda_emulation::FailFrom(1, cudaErrorLaunchFailure);
  for (const absl::Status& status :
       {memory.CopyToHost({&run, 1}), memory.CopyFromHost({&run, 1}),
        memory.CopyWithin(device.get(), device.get() + 4, 4), memory.AllocateZeroed(8).status(),
        memory.AvailableBytes().status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(Message(status), HasSubstr("GPU 0 (G): "));
  }
  EXPECT_THROW(memory.Allocate(8), DeviceFailure);
}

TEST_F(GpuFailure, MemoryThatIsShortIsNoFailure) {
  const OtherGpus small({.bytes = 1 << 20});
  CudaMemory memory;
  const absl::Status status = memory.AllocateZeroed(2 << 20).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(status), HasSubstr("2097152 bytes of GPU memory were asked for, and "));
}

TEST_F(GpuFailure, RanksOnGpusOfTheirOwnGiveTheBitsOfOne) {
  const OtherGpus two({.count = 2});
  const auto one = Run(1, First);
  ASSERT_TRUE(one.ok()) << one.status();
  const auto both =
      Run(2, [](const Shard& shard) { return shard.query_heads.begin == 0 ? 0U : 1U; });
  ASSERT_TRUE(both.ok()) << both.status();
  EXPECT_EQ(one->logits, both->logits);
}

TEST_F(GpuFailure, ThreadsUseTheGpuOfTheMemoryThatTheyCall) {
  const OtherGpus two({.count = 2});
  CudaMemory first({.index = 0, .name = "", .id = ""});
  CudaMemory second({.index = 1, .name = "", .id = ""});
  // Of an emulated GPU nobody but its own streams can touch the memory.
  const testing::OnGpu<int> one(first, std::vector<int>(100, 1));
  const testing::OnGpu<int> other(second, std::vector<int>(100, 2));
  EXPECT_EQ(one.Read(), std::vector<int>(100, 1));
  std::thread([&] {
    EXPECT_EQ(other.Read(), std::vector<int>(100, 2));
    EXPECT_EQ(one.Read(), std::vector<int>(100, 1));
  }).join();
}

std::string Problem() {
  const auto gpus = FindGpus(DeviceKind::kCuda);
  EXPECT_EQ(gpus.status().code(), absl::StatusCode::kUnimplemented);
  return Message(gpus.status());
}

TEST_F(GpuFailure, WhatAHostLacksIsTold) {
  const std::string host = "--device cuda: host " + HostName() + " has no GPU to compute on ";
  const std::string cpu = "; use --device cpu";
  {
    const OtherGpus none({.driver = 0});
    EXPECT_EQ(Problem(), host + "(no NVIDIA driver is here)" + cpu);
  }
  {
    const OtherGpus old({.driver = 12040});
    EXPECT_EQ(Problem(),
              host + "(its NVIDIA driver is for CUDA 12.4, and at least 13.0 is needed)" + cpu);
  }
  {
    const OtherGpus none({.count = 0});
    EXPECT_EQ(Problem(), host + "(no CUDA device is here)" + cpu);
  }
  {
    const OtherGpus small({.shared_bytes = 99 * 1024 - 1});
    EXPECT_EQ(Problem(), host +
                             "(GPU 0 (Emulated GPU) lets a block of threads have 101375 bytes of "
                             "shared memory, and at least 101376 are needed)" +
                             cpu);
  }
  const OtherGpus old({.major = 7});
  EXPECT_EQ(Problem(), host +
                           "(GPU 0 (Emulated GPU) has compute capability 7.0, and at least 8.0 "
                           "is needed)" +
                           cpu);
}

}  // namespace
}  // namespace tandem::core
