#include "core/cuda/kernels/dense_kernels.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "core/model/dtype.h"
#include "tests/core/cuda/product_rig.h"

namespace tandem::core {
namespace {

using ::tandem::testing::CudaProducts;
using ::tandem::testing::OnGpu;
using ::tandem::testing::RandomFloats;

/// To nearest even, in integers.
uint16_t RoundedToBfloat16(float x) {
  if (std::isnan(x)) return 0x7fff;
  const auto bits = std::bit_cast<uint32_t>(x);
  const uint32_t rest = bits & 0xffff;
  const bool up = rest > 0x8000 || (rest == 0x8000 && (bits >> 16 & 1) != 0);
  return static_cast<uint16_t>((bits >> 16) + (up ? 1 : 0));
}

TEST(CudaDense, RoundsToBfloat16) {
  CudaProducts gpu;
  std::vector<float> x = RandomFloats(1000, 31);
  for (const float value :
       {0.0F, -0.0F, 1.00390625F, 1.01171875F, 3.4e38F, 1e-40F,
        std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN()}) {
    x.push_back(value);
  }
  const OnGpu<float> from(gpu.memory, x);
  const OnGpu<uint16_t> to(gpu.memory, static_cast<int64_t>(x.size()));
  LaunchToBfloat16(gpu.memory.stream(), from.data(), static_cast<int64_t>(x.size()), to.data());
  const std::vector<uint16_t> found = to.Read();
  for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(found[i], RoundedToBfloat16(x[i])) << x[i];
}

class CudaDenseOfDType : public ::testing::TestWithParam<DType> {};

INSTANTIATE_TEST_SUITE_P(Types, CudaDenseOfDType, ::testing::ValuesIn(kAllDTypes),
                         [](const auto& of) { return std::string(DTypeName(of.param)); });

TEST_P(CudaDenseOfDType, ExpandsWhatTheFileHas) {
  constexpr int64_t kRows = 40;
  constexpr int64_t kColumns = 768;
  CudaProducts gpu;
  const WeightSample w = MakeWeights(GetParam(), kRows, kColumns, 32);
  const MatrixSource source = w.source();
  std::vector<float> row(kColumns);
  for (const Range columns : {Range{0, kColumns}, Range{96, 320}}) {
    const auto weight = gpu.Pack(w, {0, kRows}, columns);
    for (const Range rows : {Range{0, kRows}, Range{16, 20}}) {
      const OnGpu<uint16_t> out(gpu.memory, rows.count * columns.count);
      LaunchExpandToBfloat16(gpu.memory.stream(), weight->matrix(), rows.begin, rows.count,
                             out.data());
      const std::vector<uint16_t> found = out.Read();
      for (int64_t r = 0; r < rows.count; ++r) {
        Dequantize(GetParam(), source.data + (rows.begin + r) * RowBytes(GetParam(), kColumns),
                   kColumns, row.data());
        for (int64_t c = 0; c < columns.count; ++c) {
          const auto bits = std::bit_cast<float>(
              uint32_t{found[static_cast<size_t>(r * columns.count + c)]} << 16);
          const float expected = row[static_cast<size_t>(columns.begin + c)];
          // Scale and offset are added with one rounding here, with two there.
          ASSERT_NEAR(bits, expected, std::abs(expected) / 128 + 1e-6F) << r << " " << c;
        }
      }
    }
  }
}

class CudaDenseFloats : public ::testing::TestWithParam<DType> {};

INSTANTIATE_TEST_SUITE_P(Types, CudaDenseFloats,
                         ::testing::Values(DType::kF32, DType::kF16, DType::kBF16),
                         [](const auto& of) { return std::string(DTypeName(of.param)); });

TEST_P(CudaDenseFloats, AreNearTheExactProduct) {
  CudaProducts gpu;
  Rig cpu;
  for (const Range shape : {Range{1, 1}, Range{35, 40}, Range{130, 700}, Range{16, 2100}}) {
    const int64_t rows = shape.begin;
    const int64_t columns = shape.count;
    const WeightSample w = MakeWeights(GetParam(), rows, columns, 33);
    const auto weight = gpu.Pack(w, {0, rows}, {0, columns});
    for (const int64_t tokens : {1, 3, 8}) {
      const std::vector<float> x = RandomFloats(tokens * columns, 34);
      const OnGpu<float> of_gpu(gpu.memory, x);
      const OnGpu<float> out(gpu.memory, tokens * rows);
      LaunchFastFloatLinear(gpu.memory.stream(), weight->matrix(),
                            {.codes = {}, .x = of_gpu.data(), .tokens = tokens}, out.data());
      const std::vector<float> expected = cpu.Product(Isa::kAvx2, cpu.Pack(w), x, tokens);
      const std::vector<float> found = out.Read();
      ASSERT_EQ(found.size(), expected.size());
      for (size_t i = 0; i < found.size(); ++i) {
        ASSERT_NEAR(found[i], expected[i], 1e-3F + 1e-4F * std::abs(expected[i])) << i;
      }
    }
  }
}

TEST(CudaDense, RoundsToPartialSumsAndCountsWhatIsTooLarge) {
  CudaProducts gpu;
  const std::vector<float> x = {0.5F, -1.25F, 3e6F, 5e6F, std::nanf(""), -1e30F};
  const OnGpu<float> from(gpu.memory, x);
  const OnGpu<int64_t> sums(gpu.memory, 6);
  const OnGpu<int64_t> failed(gpu.memory, 3);
  LaunchToPartialSums(gpu.memory.stream(), from.data(), 3, 2, sums.data(), failed.data());
  const std::vector<int64_t> found = sums.Read();
  EXPECT_EQ(found[0], int64_t{1} << 31);
  EXPECT_EQ(found[1], -(int64_t{5} << 30));
  EXPECT_EQ(found[2], int64_t{3000000} << 32);
  EXPECT_EQ(failed.Read(), (std::vector<int64_t>{0, 1, 2}));
}

}  // namespace
}  // namespace tandem::core
