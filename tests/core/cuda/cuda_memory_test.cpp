#include "core/cuda/cuda_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <numeric>
#include <thread>

#include "core/cuda/kernels/elementwise_kernels.h"
#include "tests/core/cuda/gpu.h"

namespace tandem::core {
namespace {

using ::tandem::testing::OnGpu;
using ::testing::Each;

TEST(CudaMemory, GivesAlignedMemory) {
  CudaMemory memory;
  for (const int64_t bytes : {1, 63, 64, 100, 4096, 5000}) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.Allocate(bytes).get()) % 64, 0) << bytes;
  }
  EXPECT_EQ(memory.Allocate(0), nullptr);
  EXPECT_GT(memory.AvailableBytes().value(), 0);
}

TEST(CudaMemory, ZeroesWhatIsHeldForLong) {
  CudaMemory memory;
  const auto zeroed = memory.AllocateZeroed(10000);
  ASSERT_TRUE(zeroed.ok()) << zeroed.status();
  std::vector<std::byte> read(10000, std::byte{1});
  const CopyRun run{zeroed->get(), read.data(), read.size()};
  ASSERT_TRUE(memory.CopyToHost({&run, 1}).ok());
  EXPECT_THAT(read, Each(std::byte{0}));
}

TEST(CudaMemory, TellsWhatIsMissing) {
  CudaMemory memory;
  const absl::Status status = memory.AllocateZeroed(int64_t{1} << 50).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(status), ::testing::HasSubstr("bytes of GPU memory were asked for"));
}

TEST(CudaMemory, CopiesManyRunsOfAllSizes) {
  CudaMemory memory;
  // More than the staging memory holds at once.
  const size_t sizes[] = {1, 7, 0, 4096, 3 << 20, 2 << 20, 9 << 20, 5};
  const size_t total = std::accumulate(std::begin(sizes), std::end(sizes), size_t{0});
  std::vector<std::byte> there(total);
  std::vector<std::byte> back(total);
  testing::SplitMix random(3);
  for (std::byte& value : there) value = static_cast<std::byte>(random.Next());
  const auto device = memory.Allocate(static_cast<int64_t>(total));
  std::vector<CopyRun> to;
  std::vector<CopyRun> from;
  size_t at = 0;
  for (const size_t size : sizes) {
    to.push_back({device.get() + total - at - size, there.data() + at, size});
    from.push_back({device.get() + total - at - size, back.data() + at, size});
    at += size;
  }
  ASSERT_TRUE(memory.CopyFromHost(to).ok());
  ASSERT_TRUE(memory.CopyToHost(from).ok());
  EXPECT_EQ(there, back);
}

TEST(CudaMemory, CopiesComeAfterKernels) {
  CudaMemory memory;
  const OnGpu<float> x(memory, std::vector<float>(100, 1.0F));
  const OnGpu<float> y(memory, std::vector<float>(100, 2.0F));
  LaunchAddToRows(memory.stream(), y.data(), 1, 100, x.data());
  ASSERT_TRUE(memory
                  .CopyWithin(reinterpret_cast<std::byte*>(y.data()),
                              reinterpret_cast<std::byte*>(x.data()), 100 * sizeof(float))
                  .ok());
  EXPECT_THAT(x.Read(), Each(3.0F));
  EXPECT_THAT(y.Read(), Each(3.0F));
}

std::byte* Raw(const OnGpu<float>& values) { return reinterpret_cast<std::byte*>(values.data()); }

/// Pinned memory of the host with values in it.
std::shared_ptr<std::byte> OnHost(CudaMemory& memory, const std::vector<float>& values) {
  auto bytes = memory.host().Allocate(static_cast<int64_t>(values.size() * sizeof(float)));
  std::memcpy(bytes.get(), values.data(), values.size() * sizeof(float));
  return bytes;
}

std::vector<float> Values(const std::shared_ptr<std::byte>& bytes, size_t count) {
  std::vector<float> values(count);
  std::memcpy(values.data(), bytes.get(), count * sizeof(float));
  return values;
}

std::shared_ptr<DeviceCopy> Begin(CudaMemory& memory, CopyDirection direction,
                                  const OnGpu<float>& on_gpu,
                                  const std::shared_ptr<std::byte>& on_host, size_t count) {
  const CopyRun run{Raw(on_gpu), on_host.get(), count * sizeof(float)};
  auto copy = memory.BeginCopy(direction, {&run, 1});
  EXPECT_TRUE(copy.ok()) << copy.status();
  return *std::move(copy);
}

TEST(CudaMemory, CopiesBesideComeAfterTheKernelsBefore) {
  CudaMemory memory;
  const OnGpu<float> x(memory, std::vector<float>(100, 1.0F));
  const OnGpu<float> y(memory, std::vector<float>(100, 2.0F));
  const auto host = OnHost(memory, std::vector<float>(100));
  LaunchAddToRows(memory.stream(), y.data(), 1, 100, x.data());
  const auto copy = Begin(memory, CopyDirection::kToHost, x, host, 100);
  ASSERT_TRUE(copy->Wait().ok());
  EXPECT_THAT(Values(host, 100), Each(3.0F));
  // Nor does a copy to the GPU overtake a kernel that reads.
  const auto ones = OnHost(memory, std::vector<float>(100, 1.0F));
  LaunchAddToRows(memory.stream(), y.data(), 1, 100, x.data());
  ASSERT_TRUE(Begin(memory, CopyDirection::kFromHost, y, ones, 100)->Wait().ok());
  EXPECT_THAT(x.Read(), Each(5.0F));
  EXPECT_THAT(y.Read(), Each(1.0F));
}

TEST(CudaMemory, KernelsComeAfterCopiesThatComeFirst) {
  CudaMemory memory;
  const OnGpu<float> x(memory, std::vector<float>(100, 1.0F));
  const OnGpu<float> y(memory, std::vector<float>(100, 2.0F));
  const auto host = OnHost(memory, std::vector<float>(100));
  const auto copy = Begin(memory, CopyDirection::kToHost, x, host, 100);
  ASSERT_TRUE(copy->ComeFirst().ok());
  LaunchAddToRows(memory.stream(), y.data(), 1, 100, x.data());
  EXPECT_THAT(x.Read(), Each(3.0F));
  ASSERT_TRUE(copy->Wait().ok());
  EXPECT_THAT(Values(host, 100), Each(1.0F));
  // The same of what a kernel reads.
  const auto fives = OnHost(memory, std::vector<float>(100, 5.0F));
  const auto filled = Begin(memory, CopyDirection::kFromHost, y, fives, 100);
  ASSERT_TRUE(filled->ComeFirst().ok());
  LaunchAddToRows(memory.stream(), y.data(), 1, 100, x.data());
  EXPECT_THAT(x.Read(), Each(8.0F));
  ASSERT_TRUE(filled->Wait().ok());
}

TEST(CudaMemory, CopiesOfBothDirectionsComeInTheirOrder) {
  CudaMemory memory;
  const OnGpu<float> x(memory, std::vector<float>(100, 1.0F));
  const auto saved = OnHost(memory, std::vector<float>(100));
  const auto sevens = OnHost(memory, std::vector<float>(100, 7.0F));
  const auto out = Begin(memory, CopyDirection::kToHost, x, saved, 100);
  const auto in = Begin(memory, CopyDirection::kFromHost, x, sevens, 100);
  ASSERT_TRUE(in->Wait().ok());
  ASSERT_TRUE(out->Wait().ok());
  EXPECT_THAT(Values(saved, 100), Each(1.0F));
  // Out again, into memory that a copy to the GPU still reads.
  const auto back = Begin(memory, CopyDirection::kFromHost, x, saved, 100);
  const OnGpu<float> nines(memory, std::vector<float>(100, 9.0F));
  const auto over = Begin(memory, CopyDirection::kToHost, nines, saved, 100);
  ASSERT_TRUE(over->Wait().ok());
  ASSERT_TRUE(back->Wait().ok());
  EXPECT_THAT(x.Read(), Each(1.0F));
  EXPECT_THAT(Values(saved, 100), Each(9.0F));
}

TEST(CudaMemory, CopiesBesideWaitWhileKernelsAreCaptured) {
  CudaMemory memory;
  const OnGpu<float> x(memory, std::vector<float>(100, 1.0F));
  const auto host = OnHost(memory, std::vector<float>(100));
  memory.BeginCapture();
  std::thread other([&] {
    const auto copy = Begin(memory, CopyDirection::kToHost, x, host, 100);
    EXPECT_TRUE(copy->Wait().ok());
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  memory.AbandonCapture();
  other.join();
  EXPECT_THAT(Values(host, 100), Each(1.0F));
}

TEST(CudaMemory, AnUploadMayBeFilledAgainAtOnce) {
  for (const bool beside : {false, true}) {
    CudaMemory memory;
    memory.SendBeside(beside);
    Upload upload(memory);
    const OnGpu<float> sum(memory, std::vector<float>(50, 0.0F));
    const OnGpu<float> part(memory, 50);
    for (int round = 1; round <= 7; ++round) {
      const std::vector<float> values(50, static_cast<float>(round));
      std::memcpy(upload.Begin(200), values.data(), 200);
      upload.Send(200, reinterpret_cast<std::byte*>(part.data()));
      LaunchAddToRows(memory.stream(), part.data(), 1, 50, sum.data());
    }
    EXPECT_THAT(sum.Read(), Each(28.0F)) << beside;
  }
}

TEST(CudaMemory, UploadsOfBothWaysTakeTurns) {
  CudaMemory memory;
  Upload upload(memory);
  const OnGpu<float> sum(memory, std::vector<float>(50, 0.0F));
  const OnGpu<float> part(memory, 50);
  for (int round = 1; round <= 12; ++round) {
    memory.SendBeside(round % 3 != 0);
    const size_t count = round % 4 == 0 ? 50 : 30;
    const std::vector<float> values(count, 1.0F);
    std::memcpy(upload.Begin(4 * count), values.data(), 4 * count);
    upload.Send(4 * count, reinterpret_cast<std::byte*>(part.data()));
    LaunchAddToRows(memory.stream(), part.data(), 1, 30, sum.data());
  }
  const std::vector<float> found = sum.Read();
  EXPECT_THAT(std::vector<float>(found.begin(), found.begin() + 30), Each(12.0F));
}

}  // namespace
}  // namespace tandem::core
