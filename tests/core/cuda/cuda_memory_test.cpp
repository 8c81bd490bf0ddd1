#include "core/cuda/cuda_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

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

TEST(CudaMemory, AnUploadMayBeFilledAgainAtOnce) {
  CudaMemory memory;
  Upload upload(memory);
  const OnGpu<float> sum(memory, std::vector<float>(50, 0.0F));
  const OnGpu<float> part(memory, 50);
  for (int round = 1; round <= 4; ++round) {
    const std::vector<float> values(50, static_cast<float>(round));
    std::memcpy(upload.Begin(200), values.data(), 200);
    upload.Send(200, reinterpret_cast<std::byte*>(part.data()));
    LaunchAddToRows(memory.stream(), part.data(), 1, 50, sum.data());
  }
  EXPECT_THAT(sum.Read(), Each(10.0F));
}

}  // namespace
}  // namespace tandem::core
