#include "core/cuda/kernels/linear_kernels.h"

#include <gtest/gtest.h>

#include "core/cuda/fragment_packer.h"
#include "tests/core/cuda/product_rig.h"
#include "tests/core/cuda/thread_order.h"

namespace tandem::core {
namespace {

using ::tandem::testing::CudaProducts;

constexpr Isa kTwin = Isa::kAvx2;

/// Rows and columns of a matrix, and how many tokens it is multiplied with.
struct Shape {
  int64_t rows;
  int64_t columns;
  int64_t tokens;
};

class CudaLinear : public ::testing::TestWithParam<std::tuple<DType, Shape>> {
 protected:
  CudaLinear() { testing::SetThreadOrder(static_cast<uint64_t>(shape_.rows * shape_.tokens)); }

  const DType dtype_ = std::get<0>(GetParam());
  const Shape shape_ = std::get<1>(GetParam());
  /// Whole blocks of the type.
  const int64_t columns_ =
      (shape_.columns + BlockElements(dtype_) - 1) / BlockElements(dtype_) * BlockElements(dtype_);
  const WeightSample weights_ = MakeWeights(dtype_, shape_.rows, columns_, 11);
  const std::vector<float> x_ = RandomFloats(shape_.tokens * columns_, 12);
  CudaProducts gpu_;
  Rig cpu_;
};

/// Which tokens failed. How often depends on how the work was divided.
std::vector<bool> Which(const std::vector<int64_t>& failed) {
  std::vector<bool> which;
  for (const int64_t count : failed) which.push_back(count > 0);
  return which;
}

std::string NameOf(const ::testing::TestParamInfo<std::tuple<DType, Shape>>& info) {
  const Shape shape = std::get<1>(info.param);
  return fmt::format("{}_{}x{}_{}Tokens", DTypeName(std::get<0>(info.param)), shape.rows,
                     shape.columns, shape.tokens);
}

TEST_P(CudaLinear, GivesTheBitsOfTheCpu) {
  const auto weight = gpu_.Pack(weights_, {0, shape_.rows}, {0, columns_});
  EXPECT_EQ(weight->bytes(), BytesOnGpu(dtype_, shape_.rows, {0, columns_}, ActivationMode::kQ8));
  ExpectSameBits(gpu_.Product(*weight, x_, shape_.tokens),
                 cpu_.Product(kTwin, cpu_.Pack(weights_), x_, shape_.tokens), "products");
}

TEST_P(CudaLinear, GivesThePartialSumsOfTheCpu) {
  const auto weight = gpu_.Pack(weights_, {0, shape_.rows}, {0, columns_});
  for (const int64_t partial : {32, 64, 160}) {
    const auto found = gpu_.ProductPartialSums(*weight, x_, shape_.tokens, partial);
    const auto expected =
        cpu_.ProductPartialSums(kTwin, cpu_.Pack(weights_), x_, shape_.tokens, partial);
    EXPECT_EQ(found.sums, expected.sums) << partial;
    EXPECT_EQ(Which(found.failed), Which(expected.failed)) << partial;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Types, CudaLinear,
    ::testing::Combine(::testing::ValuesIn(kAllDTypes),
                       ::testing::Values(Shape{1, 32, 1}, Shape{35, 320, 1}, Shape{16, 96, 2},
                                         Shape{130, 256, 7}, Shape{17, 512, 8}, Shape{40, 40, 9},
                                         Shape{35, 1312, 5}, Shape{300, 576, 16},
                                         Shape{70, 1312, 33}, Shape{33, 64, 70},
                                         Shape{500, 352, 64})),
    NameOf);

/// Of matrices that are multiplied together: more than one launch takes, the one in the middle of
/// another type, and one without rows.
TEST(CudaLinearOfSeveral, GivesTheBitsOfTheCpu) {
  constexpr int64_t kColumns = 512;
  CudaProducts gpu;
  Rig cpu;
  const std::pair<DType, int64_t> matrices[] = {
      {DType::kQ4_K, 40}, {DType::kQ4_K, 17}, {DType::kQ4_K, 0},  {DType::kQ4_K, 300},
      {DType::kQ6_K, 33}, {DType::kF16, 20},  {DType::kQ4_K, 16}, {DType::kQ4_K, 100}};
  for (const int64_t tokens : {1, 5, 9, 33, 70}) {
    const std::vector<float> x = testing::RandomFloats(tokens * kColumns, 22);
    std::vector<std::unique_ptr<CudaWeight>> weights;
    std::vector<std::vector<float>> expected;
    for (const auto& [dtype, rows] : matrices) {
      const WeightSample w = MakeWeights(dtype, 300, kColumns, 23 + static_cast<uint32_t>(rows));
      weights.push_back(gpu.Pack(w, {0, rows}, {0, kColumns}));
      expected.push_back(cpu.Product(kTwin, cpu.Pack(w, {0, rows}, {0, kColumns}), x, tokens));
    }
    const std::vector<std::vector<float>> found = gpu.Products(weights, x, tokens);
    for (size_t i = 0; i < weights.size(); ++i) ExpectSameBits(found[i], expected[i], "products");
  }
}

class CudaLinearOfDType : public ::testing::TestWithParam<DType> {
 protected:
  CudaProducts gpu_;
  Rig cpu_;
};

std::string DTypeNameOf(const ::testing::TestParamInfo<DType>& info) {
  return std::string(DTypeName(info.param));
}
INSTANTIATE_TEST_SUITE_P(Types, CudaLinearOfDType, ::testing::ValuesIn(kAllDTypes), DTypeNameOf);

TEST_P(CudaLinearOfDType, AnyPartOfAMatrixGivesTheBitsOfTheCpu) {
  const WeightSample w = MakeWeights(GetParam(), 50, 768, 13);
  for (const Range rows : {Range{0, 50}, Range{3, 20}, Range{49, 1}, Range{20, 0}}) {
    for (const Range columns : {Range{32, 64}, Range{224, 96}, Range{320, 448}, Range{768, 0}}) {
      const auto weight = gpu_.Pack(w, rows, columns);
      const PackedMatrix twin = cpu_.Pack(w, rows, columns);
      for (const int64_t tokens : {3, 11}) {
        const std::vector<float> x = RandomFloats(tokens * columns.count, 14);
        ExpectSameBits(gpu_.Product(*weight, x, tokens), cpu_.Product(kTwin, twin, x, tokens),
                       "products");
        const auto found = gpu_.ProductPartialSums(*weight, x, tokens, 64);
        const auto expected = cpu_.ProductPartialSums(kTwin, twin, x, tokens, 64);
        EXPECT_EQ(found.sums, expected.sums);
        EXPECT_EQ(Which(found.failed), Which(expected.failed));
      }
    }
  }
}

std::vector<DType> QuantizedTypes() {
  std::vector<DType> types;
  for (const DType dtype : kAllDTypes) {
    if (BlockElements(dtype) > 1) types.push_back(dtype);
  }
  return types;
}

using CudaLinearOfQuantized = CudaLinearOfDType;
INSTANTIATE_TEST_SUITE_P(Types, CudaLinearOfQuantized, ::testing::ValuesIn(QuantizedTypes()),
                         DTypeNameOf);

/// A block of threads takes as many tiles as fit into its shared memory.
TEST_P(CudaLinearOfQuantized, LargeGroupsOfTilesGiveTheBitsOfTheCpu) {
  constexpr int64_t kRows = 7 * 8 * 16 - 5;  // for the seven multiprocessors of an emulated GPU
  constexpr int64_t kColumns = 1280;
  const WeightSample w = MakeWeights(GetParam(), kRows, kColumns, 29);
  const auto weight = gpu_.Pack(w, {0, kRows}, {0, kColumns});
  const PackedMatrix twin = cpu_.Pack(w);
  for (const int64_t tokens : {9, 16, 40, 70}) {
    const std::vector<float> x = RandomFloats(tokens * kColumns, 30);
    ExpectSameBits(gpu_.Product(*weight, x, tokens), cpu_.Product(kTwin, twin, x, tokens),
                   "products");
    EXPECT_EQ(gpu_.ProductPartialSums(*weight, x, tokens, 256).sums,
              cpu_.ProductPartialSums(kTwin, twin, x, tokens, 256).sums);
  }
}

/// So long and so few that some blocks of threads have none.
TEST(CudaLinearOfFewPartialSums, GivesThoseOfTheCpu) {
  CudaProducts gpu;
  Rig cpu;
  const WeightSample w = MakeWeights(DType::kQ4_0, 128, 1024, 27);
  const auto weight = gpu.Pack(w, {0, 128}, {0, 1024});
  for (const int64_t tokens : {1, 3, 12, 40}) {
    const std::vector<float> x = RandomFloats(tokens * 1024, 28);
    const auto found = gpu.ProductPartialSums(*weight, x, tokens, 1024);
    EXPECT_EQ(found.sums, cpu.ProductPartialSums(kTwin, cpu.Pack(w), x, tokens, 1024).sums);
  }
}

TEST_P(CudaLinearOfDType, WhatIsTooLargeFailsAsOnTheCpu) {
  const WeightSample w = MakeWeights(GetParam(), 40, 256, 15);
  std::vector<float> x = RandomFloats(9 * 256, 16);
  for (size_t i = 256; i < 512; ++i) x[i] *= 1e7F;
  x[512 + 70] = std::numeric_limits<float>::infinity();
  x[768 + 200] = std::numeric_limits<float>::quiet_NaN();
  for (size_t i = 1024; i < 1280; ++i) x[i] *= 1e36F;
  const auto weight = gpu_.Pack(w, {0, 40}, {0, 256});
  for (const int64_t tokens : {6, 9}) {
    x.resize(static_cast<size_t>(tokens * 256), 0.5F);
    const auto found = gpu_.ProductPartialSums(*weight, x, tokens, 64);
    const auto expected = cpu_.ProductPartialSums(kTwin, cpu_.Pack(w), x, tokens, 64);
    EXPECT_EQ(found.sums, expected.sums);
    EXPECT_EQ(Which(found.failed), Which(expected.failed));
    EXPECT_GT(found.failed[1], 0);
    EXPECT_GT(found.failed[2], 0);
    ExpectSameBits(gpu_.Product(*weight, x, tokens), cpu_.Product(kTwin, cpu_.Pack(w), x, tokens),
                   "products");
  }
}

TEST_P(CudaLinearOfDType, ExpandedToFloatsItGivesTheBitsOfTheCpu) {
  const WeightSample w = MakeWeights(GetParam(), 20, 256, 17);
  const std::vector<float> x = RandomFloats(2 * 256, 18);
  const auto weight = gpu_.Pack(w, {0, 20}, {0, 256}, ActivationMode::kF32);
  const PackedMatrix twin = cpu_.Pack(w, {0, 20}, {0, 256}, ActivationMode::kF32);
  ExpectSameBits(gpu_.Product(*weight, x, 2), cpu_.Product(kTwin, twin, x, 2), "products");
}

/// So many that a block of threads takes eight tiles.
TEST(CudaLinearOfManyRows, GivesTheBitsOfTheCpu) {
  CudaProducts gpu;
  Rig cpu;
  for (const DType dtype : {DType::kQ4_0, DType::kQ2_K, DType::kQ6_K}) {
    const WeightSample w = MakeWeights(dtype, 8210, 768, 20);
    const std::vector<float> x = RandomFloats(65 * 512, 21);
    const auto weight = gpu.Pack(w, {0, 8210}, {96, 512});
    ExpectSameBits(gpu.Product(*weight, x, 65),
                   cpu.Product(kTwin, cpu.Pack(w, {0, 8210}, {96, 512}), x, 65), "products");
  }
}

TEST(CudaWeight, SaysWhichTensorIsWrong) {
  CudaProducts gpu;
  ThreadPool pool(1);
  const WeightSample w = MakeWeights(DType::kQ8_0, 16, 64, 19);
  const auto weight = CudaWeight::Pack(w.source("blk.0.ffn_up.weight"), {0, 17}, {0, 64},
                                       ActivationMode::kQ8, gpu.memory, pool);
  EXPECT_EQ(weight.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(Message(weight.status()).find("blk.0.ffn_up.weight"), std::string::npos);
}

}  // namespace
}  // namespace tandem::core
