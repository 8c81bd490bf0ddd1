#include "core/cuda/kernels/embed_kernels.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace tandem::core
