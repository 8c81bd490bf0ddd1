#include "core/cuda/kernels/elementwise_kernels.h"

#include <gtest/gtest.h>

#include <limits>

#include "core/cpu/elementwise/elementwise.h"
#include "tests/core/cuda/gpu.h"
#include "tests/core/cuda/thread_order.h"

namespace tandem::core {
namespace {

using ::tandem::testing::OnGpu;
using ::tandem::testing::RandomFloats;
using ::tandem::testing::SameBits;

constexpr Isa kTwin = Isa::kAvx2;

struct Shape {
  int64_t rows;
  int64_t columns;
};

std::string NameOf(const ::testing::TestParamInfo<Shape>& info) {
  return fmt::format("{}Rows{}Columns", info.param.rows, info.param.columns);
}

/// Every kernel against its twin on the CPU, bit for bit, under another order of threads each time.
class CudaElementwise : public ::testing::TestWithParam<Shape> {
 protected:
  CudaElementwise() { testing::SetThreadOrder(static_cast<uint64_t>(rows_ * 1000 + columns_)); }

  std::span<float> Row(std::vector<float>& values, int64_t row) const {
    return std::span(values).subspan(static_cast<size_t>(row * columns_),
                                     static_cast<size_t>(columns_));
  }

  const int64_t rows_ = GetParam().rows;
  const int64_t columns_ = GetParam().columns;
  CudaMemory memory_;
};

constexpr NormKind kNormKinds[] = {NormKind::kRms, NormKind::kLayer, NormKind::kBatch};

TEST_P(CudaElementwise, Normalize) {
  const std::vector<float> weight = RandomFloats(columns_, 2);
  const std::vector<float> bias = RandomFloats(columns_, 3);
  const OnGpu<float> gpu_weight(memory_, weight);
  const OnGpu<float> gpu_bias(memory_, bias);
  for (const NormKind kind : kNormKinds) {
    for (const bool with_bias : {false, true}) {
      if (kind == NormKind::kBatch && !with_bias) continue;
      std::vector<float> x = RandomFloats(rows_ * columns_, 1);
      const OnGpu<float> gpu_x(memory_, x);
      const OnGpu<float> gpu_out(memory_, rows_ * columns_);
      const NormVectors norm{kind, 1e-5F, gpu_weight.data(), with_bias ? gpu_bias.data() : nullptr};
      LaunchNormalize(memory_.stream(), norm, gpu_x.data(), rows_, columns_, gpu_out.data());
      // And in place.
      LaunchNormalize(memory_.stream(), norm, gpu_x.data(), rows_, columns_, gpu_x.data());
      const NormRow twin{kind, 1e-5F, weight,
                         with_bias ? std::span<const float>(bias) : std::span<const float>()};
      for (int64_t r = 0; r < rows_; ++r) Normalize(kTwin, twin, Row(x, r), Row(x, r));
      EXPECT_TRUE(SameBits(gpu_out.Read(), x));
      EXPECT_TRUE(SameBits(gpu_x.Read(), x));
    }
  }
}

TEST_P(CudaElementwise, Add) {
  std::vector<float> x = RandomFloats(rows_ * columns_, 1);
  const std::vector<float> y = RandomFloats(rows_ * columns_, 2);
  const OnGpu<float> gpu_x(memory_, x);
  const OnGpu<float> gpu_y(memory_, y);
  LaunchAdd(memory_.stream(), gpu_y.data(), rows_ * columns_, gpu_x.data());
  AddInPlace(kTwin, x, y);
  EXPECT_TRUE(SameBits(gpu_x.Read(), x));
}

TEST_P(CudaElementwise, Activate) {
  for (const Activation kind : {Activation::kSilu, Activation::kGeluTanh, Activation::kGelu}) {
    std::vector<float> x = RandomFloats(rows_ * columns_, 1);
    const OnGpu<float> gpu_x(memory_, x);
    LaunchActivate(memory_.stream(), kind, rows_ * columns_, gpu_x.data());
    Activate(kTwin, kind, x);
    EXPECT_TRUE(SameBits(gpu_x.Read(), x));
  }
}

TEST_P(CudaElementwise, AddToRows) {
  std::vector<float> x = RandomFloats(rows_ * columns_, 3);
  const std::vector<float> y = RandomFloats(columns_, 4);
  const OnGpu<float> gpu_x(memory_, x);
  const OnGpu<float> gpu_y(memory_, y);
  LaunchAddToRows(memory_.stream(), gpu_y.data(), rows_, columns_, gpu_x.data());
  for (int64_t r = 0; r < rows_; ++r) AddInPlace(kTwin, Row(x, r), y);
  EXPECT_TRUE(SameBits(gpu_x.Read(), x));
}

TEST_P(CudaElementwise, GatedActivation) {
  const int64_t n = rows_ * columns_;
  std::vector<float> gate = RandomFloats(n, 5);
  // What polynomials must survive.
  const float limits[] = {0.0F,
                          -0.0F,
                          88.8F,
                          -88.8F,
                          1e-40F,
                          -200.0F,
                          3e38F,
                          -3e38F,
                          0.625F,
                          std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()};
  std::copy_n(limits, std::min<int64_t>(n, std::size(limits)), gate.begin());
  const std::vector<float> up = RandomFloats(n, 6);
  for (const Activation kind : {Activation::kSilu, Activation::kGeluTanh, Activation::kGelu}) {
    const OnGpu<float> gpu_gate(memory_, gate);
    const OnGpu<float> gpu_up(memory_, up);
    LaunchGatedActivation(memory_.stream(), kind, gpu_gate.data(), gpu_up.data(), n,
                          gpu_gate.data());
    std::vector<float> expected(static_cast<size_t>(n));
    GatedActivation(kTwin, kind, gate, up, expected);
    EXPECT_TRUE(SameBits(gpu_gate.Read(), expected));
  }
}

TEST_P(CudaElementwise, AddPartialSums) {
  testing::SplitMix random(7);
  std::vector<int64_t> sums(static_cast<size_t>(rows_ * columns_));
  for (int64_t& sum : sums) sum = static_cast<int64_t>(random.Next()) >> random.Below(60);
  std::vector<int64_t> failed(static_cast<size_t>(rows_));
  for (int64_t& count : failed) count = static_cast<int64_t>(random.Below(3));
  const std::vector<float> bias = RandomFloats(columns_, 8);
  const std::vector<float> norm = RandomFloats(columns_, 9);
  const std::vector<float> norm_bias = RandomFloats(columns_, 99);
  const OnGpu<int64_t> gpu_sums(memory_, sums);
  const OnGpu<int64_t> gpu_failed(memory_, failed);
  const OnGpu<float> gpu_bias(memory_, bias);
  const OnGpu<float> gpu_norm(memory_, norm);
  const OnGpu<float> gpu_norm_bias(memory_, norm_bias);
  for (const bool with_bias : {false, true}) {
    for (const NormKind* kind :
         {static_cast<const NormKind*>(nullptr), &kNormKinds[0], &kNormKinds[1], &kNormKinds[2]}) {
      const NormVectors post_norm =
          kind == nullptr ? NormVectors{}
                          : NormVectors{*kind, 1e-6F, gpu_norm.data(), gpu_norm_bias.data()};
      std::vector<float> x = RandomFloats(rows_ * columns_, 10);
      const OnGpu<float> gpu_x(memory_, x);
      const OnGpu<uint8_t> gpu_flags(memory_, std::vector<uint8_t>(static_cast<size_t>(rows_), 0));
      LaunchAddPartialSums(memory_.stream(),
                           {.sums = gpu_sums.data(),
                            .failed = gpu_failed.data(),
                            .bias = with_bias ? gpu_bias.data() : nullptr,
                            .post_norm = post_norm},
                           rows_, columns_, gpu_x.data(), gpu_flags.data());
      std::vector<float> total(static_cast<size_t>(columns_));
      const std::vector<uint8_t> flags = gpu_flags.Read();
      for (int64_t r = 0; r < rows_; ++r) {
        const auto row = std::span<const int64_t>(sums).subspan(static_cast<size_t>(r * columns_),
                                                                static_cast<size_t>(columns_));
        PartialSumsToFloat(
            kTwin, row, with_bias ? std::span<const float>(bias) : std::span<const float>(), total);
        if (kind != nullptr) Normalize(kTwin, {*kind, 1e-6F, norm, norm_bias}, total, total);
        AddInPlace(kTwin, Row(x, r), total);
        EXPECT_EQ(flags[static_cast<size_t>(r)], failed[static_cast<size_t>(r)] != 0 ? 1 : 0);
      }
      EXPECT_TRUE(SameBits(gpu_x.Read(), x));
    }
  }
}

TEST_P(CudaElementwise, SelectRows) {
  const std::vector<float> x = RandomFloats(rows_ * columns_, 11);
  std::vector<int32_t> rows;
  for (int64_t r = rows_ - 1; r >= 0; r -= 2) rows.push_back(static_cast<int32_t>(r));
  rows.push_back(0);
  const auto count = static_cast<int64_t>(rows.size());
  const OnGpu<float> gpu_x(memory_, x);
  const OnGpu<int32_t> gpu_rows(memory_, rows);
  const OnGpu<float> gpu_out(memory_, count * columns_);
  LaunchSelectRows(memory_.stream(), gpu_x.data(), gpu_rows.data(), count, columns_,
                   gpu_out.data());
  const std::vector<float> out = gpu_out.Read();
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t c = 0; c < columns_; ++c) {
      ASSERT_EQ(out[static_cast<size_t>(i * columns_ + c)],
                x[static_cast<size_t>(rows[static_cast<size_t>(i)] * columns_ + c)]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaElementwise,
                         ::testing::Values(Shape{1, 1}, Shape{2, 15}, Shape{1, 16}, Shape{3, 33},
                                           Shape{5, 64}, Shape{70, 100}, Shape{7, 129},
                                           Shape{2, 576}, Shape{1, 2051}),
                         NameOf);

TEST(CudaElementwiseKernels, NoRowsAreNoLaunch) {
  CudaMemory memory;
  LaunchAddToRows(memory.stream(), nullptr, 0, 10, nullptr);
  LaunchGatedActivation(memory.stream(), Activation::kSilu, nullptr, nullptr, 0, nullptr);
  EXPECT_EQ(OnGpu<float>(memory, std::vector<float>{1.0F}).Read(), std::vector<float>{1.0F});
}

}  // namespace
}  // namespace tandem::core
