#include "core/model/host_memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "core/model/tensor.h"

namespace tandem::core {
namespace {

bool Aligned(const std::byte* data) { return reinterpret_cast<uintptr_t>(data) % 64 == 0; }

TEST(HostMemory, GivesAlignedMemory) {
  HostMemory memory;
  for (const int64_t bytes : {1, 63, 64, 65, 100'000}) {
    EXPECT_TRUE(Aligned(memory.Allocate(bytes).get())) << bytes;
    const auto zeroed = memory.AllocateZeroed(bytes);
    ASSERT_TRUE(zeroed.ok()) << zeroed.status();
    EXPECT_TRUE(Aligned(zeroed->get())) << bytes;
    EXPECT_TRUE(std::all_of(zeroed->get(), zeroed->get() + bytes,
                            [](std::byte byte) { return byte == std::byte{0}; }));
  }
  EXPECT_GT(memory.AvailableBytes().value(), 0);
}

TEST(HostMemory, RefusesWhatCannotBeHad) {
  HostMemory memory;
  EXPECT_EQ(memory.AllocateZeroed(int64_t{1} << 60).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(memory.AllocateZeroed(-1).ok());
}

TEST(HostMemory, ZeroedMemoryOutlivesItsGiver) {
  std::shared_ptr<std::byte> data;
  {
    HostMemory memory;
    data = *memory.AllocateZeroed(64);
  }
  data.get()[63] = std::byte{7};
  EXPECT_EQ(data.get()[63], std::byte{7});
}

TEST(HostMemory, CopiesRunsEitherWay) {
  HostMemory memory;
  std::array<std::byte, 8> device{};
  std::array<std::byte, 8> host{};
  for (size_t i = 0; i < host.size(); ++i) host[i] = static_cast<std::byte>(i + 1);
  const std::array<CopyRun, 2> swapped = {CopyRun{&device[4], &host[0], 4},
                                          CopyRun{&device[0], &host[4], 4}};
  ASSERT_TRUE(memory.CopyFromHost(swapped).ok());
  EXPECT_EQ(device[4], std::byte{1});
  EXPECT_EQ(device[3], std::byte{8});
  std::array<std::byte, 8> back{};
  const CopyRun all{device.data(), back.data(), 8};
  ASSERT_TRUE(memory.CopyToHost({&all, 1}).ok());
  EXPECT_EQ(back, device);
  ASSERT_TRUE(memory.CopyWithin(&device[0], &device[4], 4).ok());
  EXPECT_EQ(device[0], std::byte{1});
}

TEST(WeightVector, HoldsAPartOfTheModel) {
  HostMemory memory;
  const std::vector<float> values = {1.0F, -2.0F, 3.0F};
  const WeightVector vector(memory, values);
  ASSERT_EQ(vector.size(), 3U);
  EXPECT_TRUE(std::equal(values.begin(), values.end(), vector.values().begin()));
  EXPECT_TRUE(WeightVector().empty());
}

}  // namespace
}  // namespace tandem::core
