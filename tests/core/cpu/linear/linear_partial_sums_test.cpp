#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "core/cpu/linear/linear.h"
#include "tests/core/cpu/linear/linear_reference.h"
#include "tests/core/cpu/linear/weight_samples.h"

namespace tandem::core {
namespace {

class PartialSumsOfDType : public ::testing::TestWithParam<DType> {};

INSTANTIATE_TEST_SUITE_P(All, PartialSumsOfDType, ::testing::ValuesIn(kAllDTypes), DTypeParamName);

TEST_P(PartialSumsOfDType, HaveTheSumsOfTheReference) {
  const WeightSample w = MakeWeights(GetParam(), 35, 512, 18);
  for (const int threads : {1, 2}) {
    Rig rig(threads);
    const PackedMatrix matrix = rig.Pack(w);
    for (const int64_t tokens : {1, 2, 5, 8, 11}) {
      const std::vector<float> x = RandomFloats(tokens * w.columns, 19);
      for (const int64_t partial : {32, 64, 192, 256, 1024}) {
        std::vector<int64_t> sums;
        std::vector<int64_t> failed(static_cast<size_t>(tokens));
        for (int64_t t = 0; t < tokens; ++t) {
          for (int64_t r = 0; r < w.rows; ++r) {
            sums.push_back(PartialSumsReference(w, r, {0, w.columns}, x.data() + t * w.columns,
                                                partial, failed[static_cast<size_t>(t)]));
          }
        }
        for (const Isa isa : AllIsas()) {
          const Rig::PartialSums found = rig.ProductPartialSums(isa, matrix, x, tokens, partial);
          ASSERT_EQ(found.sums, sums)
              << IsaName(isa) << " tokens " << tokens << " partial " << partial;
          ASSERT_EQ(found.failed, failed);
        }
      }
    }
  }
}

TEST_P(PartialSumsOfDType, LongTilesHaveTheSumsOfTheReference) {
  const WeightSample w = MakeWeights(GetParam(), 85, 8448, 32);
  Rig rig;
  const PackedMatrix matrix = rig.Pack(w);
  const std::vector<float> x = RandomFloats(w.columns, 33);
  constexpr int64_t kPartialColumns = 256;
  std::vector<int64_t> sums;
  std::vector<int64_t> failed(1);
  for (int64_t r = 0; r < w.rows; ++r) {
    sums.push_back(
        PartialSumsReference(w, r, {0, w.columns}, x.data(), kPartialColumns, failed[0]));
  }
  for (const Isa isa : AllIsas()) {
    const Rig::PartialSums found = rig.ProductPartialSums(isa, matrix, x, 1, kPartialColumns);
    ASSERT_EQ(found.sums, sums) << IsaName(isa);
    ASSERT_EQ(found.failed, failed);
  }
}

TEST_P(PartialSumsOfDType, AddUpToTheSameOverAnyCut) {
  const WeightSample w = MakeWeights(GetParam(), 24, 768, 20);
  constexpr int64_t kPartialColumns = 64;
  Rig rig(2);
  const std::vector<float> x = RandomFloats(3 * w.columns, 21);
  const Rig::PartialSums whole =
      rig.ProductPartialSums(BestIsa(), rig.Pack(w), x, 3, kPartialColumns);
  for (const std::vector<int64_t>& borders :
       {std::vector<int64_t>{0, 6, 12}, {0, 1, 5, 12}, {0, 0, 4, 7, 7, 11, 12}}) {
    std::vector<int64_t> total(whole.sums.size());
    for (size_t rank = 0; rank + 1 < borders.size(); ++rank) {
      const Range columns{borders[rank] * kPartialColumns,
                          (borders[rank + 1] - borders[rank]) * kPartialColumns};
      std::vector<float> part;
      for (int64_t t = 0; t < 3; ++t) {
        const float* row = x.data() + t * w.columns + columns.begin;
        part.insert(part.end(), row, row + columns.count);
      }
      const Rig::PartialSums partials =
          rig.ProductPartialSums(AllIsas()[rank % AllIsas().size()],
                                 rig.Pack(w, {0, w.rows}, columns), part, 3, kPartialColumns);
      for (size_t i = 0; i < total.size(); ++i) total[i] += partials.sums[i];
    }
    EXPECT_EQ(total, whole.sums);
  }
}

TEST(LinearPartialSums, ReplaceWhatStandsThere) {
  const WeightSample w = MakeWeights(DType::kF32, 16, 32, 22);
  Rig rig;
  const PackedMatrix matrix = rig.Pack(w);
  const std::vector<float> x = RandomFloats(32, 23);
  const Rig::PartialSums once = rig.ProductPartialSums(BestIsa(), matrix, x, 1, 32);
  for (const Isa isa : AllIsas()) {
    Activations activations;
    activations.Assign(isa, {x.data(), 1, 32, 32}, false, rig.pool);
    std::vector<int64_t> sums(16, 77);
    int64_t failed = 5;
    LinearPartialSums(isa, matrix, activations, {32, sums.data(), 16, &failed}, rig.pool);
    for (size_t i = 0; i < 16; ++i) EXPECT_EQ(sums[i], once.sums[i]);
    EXPECT_EQ(failed, 0);
  }
}

/// A 1-row float matrix whose product with one-hot activations is `value`.
Rig::PartialSums PartialSumOf(Isa isa, float value) {
  WeightSample w = MakeWeights(DType::kF32, 1, 32, 24);
  std::fill(w.bytes.begin(), w.bytes.end(), std::byte{0});
  std::memcpy(w.bytes.data(), &value, 4);
  std::vector<float> x(32);
  x[0] = 1.0F;
  Rig rig;
  return rig.ProductPartialSums(isa, rig.Pack(w), x, 1, 32);
}

TEST(LinearPartialSums, RoundToNearestEvenOnceAndFlagWhatIsOutOfRange) {
  for (const Isa isa : AllIsas()) {
    const float quantum = std::ldexp(1.0F, -32);
    EXPECT_EQ(PartialSumOf(isa, 0.5F * quantum).sums[0], 0);
    EXPECT_EQ(PartialSumOf(isa, 1.5F * quantum).sums[0], 2);
    EXPECT_EQ(PartialSumOf(isa, 2.5F * quantum).sums[0], 2);
    EXPECT_EQ(PartialSumOf(isa, -2.5F * quantum).sums[0], -2);
    EXPECT_EQ(PartialSumOf(isa, -3.5F * quantum).sums[0], -4);
    EXPECT_EQ(PartialSumOf(isa, std::numeric_limits<float>::denorm_min()).sums[0], 0);
    EXPECT_EQ(PartialSumOf(isa, 1.0F).sums[0], int64_t{1} << 32);

    const float largest = std::nextafter(4194304.0F, 0.0F);
    EXPECT_EQ(PartialSumOf(isa, -largest).sums[0], -static_cast<int64_t>(largest * 4294967296.0));
    EXPECT_EQ(PartialSumOf(isa, largest).failed[0], 0);
    for (const float bad : {4194304.0F, -4194304.0F, kInfinity, -kInfinity, kNan, 3e38F}) {
      EXPECT_EQ(PartialSumOf(isa, bad).failed[0], 1) << bad;
      EXPECT_EQ(PartialSumOf(isa, bad).sums[0], 0) << bad;
    }
  }
}

/// Sums of the reference and of every Isa are the same, and so is which tokens fail.
void ExpectTheReference(const WeightSample& w, const std::vector<float>& x, int64_t partial) {
  const auto tokens = static_cast<int64_t>(x.size()) / w.columns;
  std::vector<int64_t> sums;
  std::vector<int64_t> failed(static_cast<size_t>(tokens));
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t r = 0; r < w.rows; ++r) {
      sums.push_back(PartialSumsReference(w, r, {0, w.columns}, x.data() + t * w.columns, partial,
                                          failed[static_cast<size_t>(t)]));
    }
  }
  Rig rig;
  const PackedMatrix matrix = rig.Pack(w);
  for (const Isa isa : AllIsas()) {
    const Rig::PartialSums found = rig.ProductPartialSums(isa, matrix, x, tokens, partial);
    ASSERT_EQ(found.sums, sums) << IsaName(isa);
    for (size_t token = 0; token < failed.size(); ++token) {
      // The reference counts partial sums, products count rows.
      ASSERT_EQ(found.failed[token] != 0, failed[token] != 0) << IsaName(isa);
    }
  }
}

// Kernels may add small partial sums in other ways than large ones.
TEST(LinearPartialSums, OfAnyMagnitudeHaveTheSumsOfTheReference) {
  for (const DType dtype : {DType::kQ8_0, DType::kQ4_1, DType::kQ4_K}) {
    const WeightSample w = MakeWeights(dtype, 33, 512, 27);
    for (int exponent = -48; exponent <= 40; exponent += 4) {
      std::vector<float> x = RandomFloats(12 * w.columns, 28);
      for (float& value : x) value = std::ldexp(value, exponent);
      ExpectTheReference(w, x, 64);
      // One partial sum of one token is larger.
      for (int64_t i = 0; i < 64; ++i) {
        float& value = x[static_cast<size_t>(5 * w.columns + 128 + i)];
        value = std::ldexp(value, 12);
      }
      ExpectTheReference(w, x, 64);
    }
  }
}

TEST(LinearPartialSums, HalfwayBetweenMultiplesGoToTheEvenOne) {
  WeightSample w = MakeWeights(DType::kQ8_0, 16, 256, 29);
  constexpr size_t kBlockBytes = 34;
  constexpr uint16_t kScale = 0x1400;  // 2^-10
  for (size_t at = 0; at < w.bytes.size(); at += kBlockBytes) {
    std::memcpy(w.bytes.data() + at, &kScale, sizeof(kScale));
  }
  std::fill(w.scales.begin(), w.scales.end(), 0x1p-10F);
  // Partial sums are whole multiples of 2^(exponent - 10), so half of them are odd.
  for (int exponent = -30; exponent <= 8; ++exponent) {
    std::vector<float> x = RandomFloats(8 * w.columns, 30);
    for (size_t i = 0; i < x.size(); ++i) {
      const float code = i % 32 == 0 ? 127.0F : std::nearbyint(std::fmod(100.0F * x[i], 126.0F));
      x[i] = std::ldexp(code, exponent);
    }
    ExpectTheReference(w, x, 64);
  }
}

TEST(LinearPartialSums, ThousandsOfThemHaveTheSumsOfTheReference) {
  const WeightSample w = MakeWeights(DType::kQ8_0, 16, 32 * 1100, 31);
  std::vector<float> x = RandomFloats(8 * w.columns, 32);
  for (const float factor : {1.0F, 1000.0F}) {
    for (float& value : x) value *= factor;
    ExpectTheReference(w, x, 32);
  }
}

TEST(LinearPartialSums, NonFiniteInputFailsItsTokenOnly) {
  for (const DType dtype : kAllDTypes) {
    const WeightSample w = MakeWeights(dtype, 19, 256, 25);
    Rig rig(2);
    const PackedMatrix matrix = rig.Pack(w);
    for (const float bad : {kNan, kInfinity, -kInfinity}) {
      std::vector<float> x = RandomFloats(9 * 256, 26);
      x[4 * 256 + 77] = bad;
      for (const Isa isa : AllIsas()) {
        const Rig::PartialSums partials = rig.ProductPartialSums(isa, matrix, x, 9, 64);
        for (size_t t = 0; t < 9; ++t) {
          // 19 rows, one partial sum each; the padding of the second tile does not count.
          EXPECT_EQ(partials.failed[t], t == 4 ? 19 : 0) << DTypeName(dtype) << IsaName(isa);
        }
        const std::vector<float> out = rig.Product(isa, matrix, x, 9);
        for (size_t i = 0; i < out.size(); ++i) EXPECT_EQ(std::isfinite(out[i]), i / 19 != 4);
      }
    }
  }
}

TEST(LinearPartialSums, SumBecomesFloatWithOneRounding) {
  EXPECT_EQ(PartialSumToFloat(0), 0.0F);
  EXPECT_EQ(PartialSumToFloat(1), std::ldexp(1.0F, -32));
  EXPECT_EQ(PartialSumToFloat(-3), std::ldexp(-3.0F, -32));
  // Just above the middle of two floats: through double it would round twice, down.
  const int64_t tricky = (int64_t{1} << 62) + (int64_t{1} << 38) + 1;
  EXPECT_EQ(PartialSumToFloat(tricky), std::ldexp(1.0F + std::ldexp(1.0F, -23), 30));
  EXPECT_EQ(PartialSumToFloat(tricky - 1), std::ldexp(1.0F, 30));
  EXPECT_EQ(PartialSumToFloat(-tricky), -PartialSumToFloat(tricky));
}

}  // namespace
}  // namespace tandem::core
