#include "core/cuda/kernels/embed_kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

#include "tests/core/cuda/gpu.h"

namespace tandem::core {
namespace {

using ::tandem::testing::OnGpu;

class ExpandRowsOfDType : public ::testing::TestWithParam<DType> {};

/// Whatever the bytes are: every code, scale and minimum.
TEST_P(ExpandRowsOfDType, HasTheBitsOfDequantize) {
  for (const int64_t blocks : {1, 3, 40}) {
    const int64_t columns = blocks * BlockElements(GetParam());
    constexpr int64_t kRows = 5;
    std::vector<std::byte> bytes(static_cast<size_t>(kRows * RowBytes(GetParam(), columns)));
    testing::SplitMix random(static_cast<uint64_t>(blocks));
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.Next());
    std::vector<float> expected(static_cast<size_t>(kRows * columns));
    Dequantize(GetParam(), bytes.data(), kRows * columns, expected.data());
    CudaMemory memory;
    const OnGpu<std::byte> on_gpu(memory, bytes);
    const OnGpu<float> out(memory, kRows * columns);
    for (const float scale : {1.0F, 22.6F}) {
      LaunchExpandRows(memory.stream(), {GetParam(), on_gpu.data(), kRows, columns}, scale,
                       out.data());
      std::vector<float> scaled = expected;
      for (float& value : scaled) value *= scale;
      EXPECT_TRUE(testing::SameBits(out.Read(), scaled));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, ExpandRowsOfDType,
                         ::testing::Values(DType::kF32, DType::kF16, DType::kBF16, DType::kQ4_0,
                                           DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ8_0,
                                           DType::kQ2_K, DType::kQ3_K, DType::kQ4_K, DType::kQ5_K,
                                           DType::kQ6_K),
                         [](const auto& of) { return std::string(DTypeName(of.param)); });

TEST(LaunchTakeRows, TakesThemFromTheHostAndLeavesTheOthers) {
  constexpr int64_t kRowBytes = 18 * 20;
  constexpr size_t kTokens = 7;
  CudaMemory memory;
  const PinnedBytes table = AllocatePinned(kTokens * kRowBytes);
  testing::SplitMix random(3);
  for (size_t i = 0; i < kTokens * kRowBytes; ++i) table[i] = static_cast<std::byte>(random.Next());
  const std::vector<int32_t> tokens = {6, -1, 3};  // -1: nothing was sampled
  const std::vector<int32_t> from = {2, -1, 0, 1};
  const std::vector<std::byte> before(from.size() * kRowBytes, std::byte{0x5a});
  const OnGpu<int32_t> tokens_on_gpu(memory, tokens);
  const OnGpu<int32_t> from_on_gpu(memory, from);
  const OnGpu<std::byte> out(memory, before);
  LaunchTakeRows(memory.stream(), table.get(), kRowBytes, tokens_on_gpu.data(), from_on_gpu.data(),
                 static_cast<int64_t>(from.size()), out.data());
  std::vector<std::byte> expected = before;
  for (const auto& [row, token] : {std::pair(0, 3), std::pair(2, 6), std::pair(3, 0)}) {
    std::copy_n(table.get() + token * kRowBytes, kRowBytes, expected.begin() + row * kRowBytes);
  }
  EXPECT_EQ(out.Read(), expected);
}

}  // namespace
}  // namespace tandem::core
