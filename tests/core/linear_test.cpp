#include "core/linear.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "weight_samples.h"

namespace tandem::core {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<Isa> AllIsas() {
  std::vector<Isa> isas = {Isa::kScalar, Isa::kAvx2};
  if (BestIsa() == Isa::kAvx512) isas.push_back(Isa::kAvx512);
  return isas;
}

// ---- The reference, straight from numerics.md ----

struct QuantizedBlock {
  int codes[32] = {};
  float scale = 0;
};

QuantizedBlock QuantizeReference(const float* x, int64_t count) {
  QuantizedBlock block;
  float amax = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(x[i])) {
      block.scale = kNan;
      return block;
    }
    amax = std::max(amax, std::fabs(x[i]));
  }
  if (amax == 0 || !std::isfinite(127.0F / amax)) return block;
  block.scale = amax / 127.0F;
  const float inverse = 127.0F / amax;
  for (int64_t i = 0; i < count; ++i) {
    block.codes[i] = static_cast<int>(std::nearbyint(x[i] * inverse));
  }
  return block;
}

/// One leaf: columns [begin, begin + count) of a row of `w` with as many of x.
float LeafReference(const WeightSample& w, int64_t row, Range columns, const float* x,
                    bool quantize) {
  float acc = 0;
  const int64_t at = row * w.columns + columns.begin;
  if (w.group == 0 || !quantize) {
    for (int64_t c = 0; c < columns.count; ++c) {
      acc = std::fma(w.values[static_cast<size_t>(at + c)], x[c], acc);
    }
    return acc;
  }
  for (int64_t b = 0; b < columns.count; b += 32) {
    const QuantizedBlock block = QuantizeReference(x + b, std::min<int64_t>(32, columns.count - b));
    for (int64_t g = 0; g < 32; g += w.group) {
      int32_t products = 0;
      int32_t sum = 0;
      for (int64_t c = g; c < g + w.group; ++c) {
        products += w.codes[static_cast<size_t>(at + b + c)] * block.codes[c];
        sum += block.codes[c];
      }
      const auto scale = static_cast<size_t>((at + b + g) / w.group);
      acc = std::fma(w.scales[scale] * block.scale, static_cast<float>(products), acc);
      if (!w.offsets.empty()) {
        acc = std::fma(w.offsets[scale] * block.scale, static_cast<float>(sum), acc);
      }
    }
  }
  return acc;
}

/// Sum of leaves as integers of 2^-32; counts those that fail.
int64_t LeavesReference(const WeightSample& w, int64_t row, Range columns, const float* x,
                        int64_t leaf_columns, int64_t& failed) {
  int64_t sum = 0;
  for (int64_t c = 0; c < columns.count; c += leaf_columns) {
    const Range leaf{columns.begin + c, std::min(leaf_columns, columns.count - c)};
    const float value = LeafReference(w, row, leaf, x + c, true);
    if (!(std::fabs(value) < 4194304.0F)) {
      ++failed;
    } else {
      sum += static_cast<int64_t>(std::nearbyint(static_cast<double>(value) * 4294967296.0));
    }
  }
  return sum;
}

// ---- Helpers ----

std::vector<float> RandomFloats(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> floats(static_cast<size_t>(count));
  for (float& value : floats) value = normal(random);
  return floats;
}

/// Equal bits, or both NaN.
void ExpectSameBits(const std::vector<float>& found, const std::vector<float>& expected,
                    const std::string& what) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    if (std::isnan(found[i]) && std::isnan(expected[i])) continue;
    ASSERT_EQ(std::bit_cast<uint32_t>(found[i]), std::bit_cast<uint32_t>(expected[i]))
        << what << ", element " << i << ": " << found[i] << " for " << expected[i];
  }
}

struct Rig {
  explicit Rig(int threads = 1) : pool(threads) {}
  ThreadPool pool;
  Arena arena;

  PackedMatrix Pack(const WeightSample& w, Range rows, Range columns,
                    ActivationMode mode = ActivationMode::kQ8) {
    absl::StatusOr<PackedMatrix> packed =
        PackedMatrix::Pack(w.source(), rows, columns, mode, arena, pool);
    EXPECT_TRUE(packed.ok()) << packed.status();
    return packed.ok() ? *packed : PackedMatrix();
  }

  PackedMatrix Pack(const WeightSample& w) { return Pack(w, {0, w.rows}, {0, w.columns}); }

  /// x: [tokens, columns] -> [tokens, rows]
  std::vector<float> Product(Isa isa, const PackedMatrix& matrix, const std::vector<float>& x,
                             int64_t tokens) {
    Activations activations;
    activations.Assign(isa, x.data(), tokens, matrix.columns(), matrix.columns(),
                       matrix.quantized(), pool);
    std::vector<float> out(static_cast<size_t>(tokens * matrix.rows()), -1.0F);
    Linear(isa, matrix, activations, out.data(), matrix.rows(), pool);
    return out;
  }

  struct Leaves {
    std::vector<int64_t> sums;
    std::vector<int64_t> failed;
  };
  Leaves ProductLeaves(Isa isa, const PackedMatrix& matrix, const std::vector<float>& x,
                       int64_t tokens, int64_t leaf_columns) {
    Activations activations;
    activations.Assign(isa, x.data(), tokens, matrix.columns(), matrix.columns(),
                       matrix.quantized(), pool);
    Leaves leaves;
    leaves.sums.resize(static_cast<size_t>(tokens * matrix.rows()));
    leaves.failed.resize(static_cast<size_t>(tokens));
    LinearLeaves(isa, matrix, activations, leaf_columns, leaves.sums.data(), matrix.rows(),
                 leaves.failed.data(), pool);
    return leaves;
  }
};

std::vector<float> ProductReference(const WeightSample& w, Range rows, Range columns,
                                    const std::vector<float>& x, int64_t tokens,
                                    bool quantize = true) {
  std::vector<float> out;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t r = 0; r < rows.count; ++r) {
      out.push_back(
          LeafReference(w, rows.begin + r, columns, x.data() + t * columns.count, quantize));
    }
  }
  return out;
}

class LinearOfDType : public testing::TestWithParam<DType> {};

std::string ParamName(const testing::TestParamInfo<DType>& info) {
  return std::string(DTypeName(info.param));
}
INSTANTIATE_TEST_SUITE_P(All, LinearOfDType, testing::ValuesIn(kAllDTypes), ParamName);

// ---- Products ----

TEST_P(LinearOfDType, SampleMeansWhatTheReaderReads) {
  const WeightSample w = MakeWeights(GetParam(), 3, 512, 1);
  std::vector<float> read(w.values.size());
  Dequantize(w.dtype, w.bytes.data(), static_cast<int64_t>(read.size()), read.data());
  for (size_t i = 0; i < read.size(); ++i) ASSERT_EQ(read[i], w.values[i]) << i;
}

TEST_P(LinearOfDType, HasTheBitsOfTheReferenceOnEveryIsa) {
  const WeightSample w = MakeWeights(GetParam(), 37, 512, 2);
  for (const int threads : {1, 2, 3}) {
    Rig rig(threads);
    const PackedMatrix matrix = rig.Pack(w);
    for (const int64_t tokens : {1, 2, 3, 4, 5, 7, 8, 9, 12, 17}) {
      const std::vector<float> x = RandomFloats(tokens * w.columns, 3);
      const std::vector<float> expected =
          ProductReference(w, {0, w.rows}, {0, w.columns}, x, tokens);
      for (const Isa isa : AllIsas()) {
        ExpectSameBits(rig.Product(isa, matrix, x, tokens), expected,
                       std::string(IsaName(isa)) + ", tokens " + std::to_string(tokens) +
                           ", threads " + std::to_string(threads));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(LinearOfDType, TakesAnyRowsAndColumns) {
  const WeightSample w = MakeWeights(GetParam(), 50, 768, 4);
  Rig rig(2);
  for (const Range rows : {Range{0, 1}, Range{0, 16}, Range{13, 17}, Range{49, 1}, Range{5, 45}}) {
    for (const Range columns : {Range{0, 32}, Range{32, 96}, Range{736, 32}, Range{224, 320}}) {
      const PackedMatrix matrix = rig.Pack(w, rows, columns);
      EXPECT_EQ(matrix.rows(), rows.count);
      EXPECT_EQ(matrix.columns(), columns.count);
      const std::vector<float> x = RandomFloats(3 * columns.count, 5);
      const std::vector<float> expected = ProductReference(w, rows, columns, x, 3);
      for (const Isa isa : AllIsas()) {
        ExpectSameBits(rig.Product(isa, matrix, x, 3), expected, std::string(IsaName(isa)));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(LinearOfDType, ExtremeCodesStayExact) {
  // The largest sums there are: saturation anywhere would show.
  WeightSample w = MakeWeights(GetParam(), 16, 256, 6);
  if (w.group == 0) GTEST_SKIP() << "has no codes";
  Rig rig;
  for (const int byte : {0x00, 0x80, 0xff}) {
    // Codes all alike; the scales, wherever they stand, are alike too, so only equality counts.
    std::vector<std::byte> bytes(w.bytes.size(), static_cast<std::byte>(byte));
    w.bytes = bytes;
    const PackedMatrix matrix = rig.Pack(w);
    for (const float sign : {-1.0F, 1.0F}) {
      std::vector<float> x(static_cast<size_t>(w.columns) * 2, sign * 3.0F);
      for (size_t i = 0; i < x.size() / 2; ++i) x[i] = i % 2 == 0 ? 3.0F : -3.0F;
      const std::vector<float> scalar = rig.Product(Isa::kScalar, matrix, x, 2);
      for (const Isa isa : AllIsas()) {
        ExpectSameBits(rig.Product(isa, matrix, x, 2), scalar, std::string(IsaName(isa)));
      }
    }
  }
}

TEST_P(LinearOfDType, ExpandsToFloatsForTheReferenceMode) {
  const WeightSample w = MakeWeights(GetParam(), 21, 512, 7);
  Rig rig(2);
  for (const Range columns : {Range{0, 512}, Range{96, 224}}) {
    const PackedMatrix matrix = rig.Pack(w, {2, 19}, columns, ActivationMode::kF32);
    EXPECT_FALSE(matrix.quantized());
    const std::vector<float> x = RandomFloats(5 * columns.count, 8);
    const std::vector<float> expected = ProductReference(w, {2, 19}, columns, x, 5, false);
    for (const Isa isa : AllIsas()) {
      ExpectSameBits(rig.Product(isa, matrix, x, 5), expected, std::string(IsaName(isa)));
    }
  }
}

TEST(Linear, ExactWhereSumsAreExact) {
  // Weights of small integers and activations that quantize without loss: the plain integer sum.
  WeightSample w = MakeWeights(DType::kQ8_0, 16, 64, 9);
  for (int64_t b = 0; b < 32; ++b) {
    const uint16_t one = 0x3c00;
    std::memcpy(w.bytes.data() + b * 34, &one, 2);
  }
  Rig rig;
  std::vector<float> x(64);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(static_cast<int>(i % 32) - 15);
  x[0] = x[32] = 127.0F;
  const PackedMatrix matrix = rig.Pack(w);
  for (const Isa isa : AllIsas()) {
    const std::vector<float> out = rig.Product(isa, matrix, x, 1);
    for (size_t r = 0; r < 16; ++r) {
      float sum = 0;
      for (size_t c = 0; c < 64; ++c) sum += static_cast<float>(w.codes[64 * r + c]) * x[c];
      EXPECT_EQ(out[r], sum);
    }
  }
}

TEST(Linear, FloatColumnsNeedNotFillBlocks) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const int64_t columns : {1, 7, 31, 33, 100}) {
      const WeightSample w = MakeWeights(dtype, 18, columns, 10);
      Rig rig;
      const PackedMatrix matrix = rig.Pack(w);
      const std::vector<float> x = RandomFloats(9 * columns, 11);
      const std::vector<float> expected = ProductReference(w, {0, 18}, {0, columns}, x, 9);
      for (const Isa isa : AllIsas()) {
        ExpectSameBits(rig.Product(isa, matrix, x, 9), expected, std::string(IsaName(isa)));
      }
    }
  }
}

TEST(Linear, EmptyRangesAreProductsToo) {
  const WeightSample w = MakeWeights(DType::kQ4_1, 20, 64, 12);
  Rig rig;
  EXPECT_TRUE(
      rig.Product(Isa::kScalar, rig.Pack(w, {3, 0}, {0, 64}), std::vector<float>(64, 1.0F), 1)
          .empty());
  const PackedMatrix no_columns = rig.Pack(w, {0, 20}, {64, 0});
  EXPECT_EQ(no_columns.bytes(), 0);
  for (const Isa isa : AllIsas()) {
    EXPECT_THAT(rig.Product(isa, no_columns, {}, 2), testing::Each(0.0F));
    const Rig::Leaves leaves = rig.ProductLeaves(isa, no_columns, {}, 2, 64);
    EXPECT_THAT(leaves.sums, testing::Each(0));
    EXPECT_THAT(leaves.failed, testing::Each(0));
  }
}

TEST(Linear, StridesLeaveTheirGapsAlone) {
  const WeightSample w = MakeWeights(DType::kQ4_0, 20, 64, 13);
  Rig rig;
  const PackedMatrix matrix = rig.Pack(w);
  const std::vector<float> x = RandomFloats(3 * 70, 14);
  for (const Isa isa : AllIsas()) {
    Activations activations;
    activations.Assign(isa, x.data(), 3, 64, 70, true, rig.pool);
    std::vector<float> out(3 * 25, 77.0F);
    Linear(isa, matrix, activations, out.data(), 25, rig.pool);
    for (int64_t t = 0; t < 3; ++t) {
      for (int64_t r = 0; r < 25; ++r) {
        const float found = out[static_cast<size_t>(25 * t + r)];
        EXPECT_EQ(found, r < 20 ? LeafReference(w, r, {0, 64}, x.data() + 70 * t, true) : 77.0F);
      }
    }
  }
}

// ---- Quantization of activations ----

TEST(Activations, HaveTheCodesOfTheReferenceOnEveryIsa) {
  ThreadPool pool(2);
  for (const int64_t columns : {1, 15, 16, 17, 31, 32, 64, 95, 576}) {
    const int64_t tokens = 11;
    std::vector<float> x = RandomFloats(tokens * columns, 15);
    x[0] = 0.0F;
    for (int64_t c = 0; c < columns; ++c) {
      x[static_cast<size_t>(columns + c)] = 0.0F;                               // all zero
      x[static_cast<size_t>(2 * columns + c)] = c % 2 == 0 ? 1e-38F : -1e-39F;  // too small
      x[static_cast<size_t>(3 * columns + c)] *= 1e-36F;
      x[static_cast<size_t>(4 * columns + c)] *= 1e37F;
      x[static_cast<size_t>(5 * columns + c)] = static_cast<float>(c % 32) + 0.5F;  // ties
    }
    x[static_cast<size_t>(6 * columns + columns / 2)] = kNan;
    x[static_cast<size_t>(7 * columns + columns / 2)] = kInfinity;
    x[static_cast<size_t>(8 * columns)] = -kInfinity;
    for (const Isa isa : AllIsas()) {
      Activations activations;
      activations.Assign(isa, x.data(), tokens, columns, columns, true, pool);
      ASSERT_EQ(activations.groups(), 2);
      for (int64_t t = 0; t < tokens; ++t) {
        const Activations::Group group = activations.group(t / 8);
        const int64_t in_group = t % 8;
        ASSERT_EQ(group.tokens, t < 8 ? 8 : 3);
        for (int64_t b = 0; b < activations.blocks(); ++b) {
          const QuantizedBlock expected = QuantizeReference(
              x.data() + t * columns + 32 * b, std::min<int64_t>(32, columns - 32 * b));
          const int64_t cell = b * group.tokens + in_group;
          int sums[3] = {};
          for (int64_t c = 0; c < 32; ++c) {
            ASSERT_EQ(group.codes[cell * 32 + c], expected.codes[c])
                << IsaName(isa) << " token " << t << " block " << b << " column " << c;
            sums[c / 16] += expected.codes[c];
            sums[2] += expected.codes[c];
          }
          ASSERT_TRUE(group.scales[cell] == expected.scale ||
                      (std::isnan(group.scales[cell]) && std::isnan(expected.scale)));
          for (int64_t i = 0; i < 3; ++i) {
            ASSERT_EQ(group.sums[(3 * b + i) * group.tokens + in_group], sums[i]);
            ASSERT_EQ(group.float_sums[(3 * b + i) * group.tokens + in_group],
                      static_cast<float>(sums[i]));
          }
        }
      }
    }
  }
}

TEST(Activations, ShrinkAndGrow) {
  ThreadPool pool(1);
  Activations activations;
  const WeightSample w = MakeWeights(DType::kQ5_1, 16, 256, 16);
  Rig rig;
  const PackedMatrix matrix = rig.Pack(w);
  for (const int64_t tokens : {1, 20, 3, 33}) {
    const std::vector<float> x = RandomFloats(tokens * 256, 17);
    activations.Assign(BestIsa(), x.data(), tokens, 256, 256, true, pool);
    std::vector<float> out(static_cast<size_t>(tokens * 16));
    Linear(BestIsa(), matrix, activations, out.data(), 16, pool);
    ExpectSameBits(out, ProductReference(w, {0, 16}, {0, 256}, x, tokens), "reused");
  }
}

// ---- Leaves ----

TEST_P(LinearOfDType, LeavesHaveTheSumsOfTheReference) {
  const WeightSample w = MakeWeights(GetParam(), 35, 512, 18);
  for (const int threads : {1, 2}) {
    Rig rig(threads);
    const PackedMatrix matrix = rig.Pack(w);
    for (const int64_t tokens : {1, 2, 5, 8, 11}) {
      const std::vector<float> x = RandomFloats(tokens * w.columns, 19);
      for (const int64_t leaf : {32, 64, 192, 256, 1024}) {
        std::vector<int64_t> sums;
        std::vector<int64_t> failed(static_cast<size_t>(tokens));
        for (int64_t t = 0; t < tokens; ++t) {
          for (int64_t r = 0; r < w.rows; ++r) {
            sums.push_back(LeavesReference(w, r, {0, w.columns}, x.data() + t * w.columns, leaf,
                                           failed[static_cast<size_t>(t)]));
          }
        }
        for (const Isa isa : AllIsas()) {
          const Rig::Leaves found = rig.ProductLeaves(isa, matrix, x, tokens, leaf);
          ASSERT_EQ(found.sums, sums) << IsaName(isa) << " tokens " << tokens << " leaf " << leaf;
          ASSERT_EQ(found.failed, failed);
        }
      }
    }
  }
}

TEST_P(LinearOfDType, LeavesAddUpToTheSameOverAnyCut) {
  const WeightSample w = MakeWeights(GetParam(), 24, 768, 20);
  constexpr int64_t kLeaf = 64;
  Rig rig(2);
  const std::vector<float> x = RandomFloats(3 * w.columns, 21);
  const Rig::Leaves whole = rig.ProductLeaves(BestIsa(), rig.Pack(w), x, 3, kLeaf);
  for (const std::vector<int64_t>& borders :
       {std::vector<int64_t>{0, 6, 12}, {0, 1, 5, 12}, {0, 0, 4, 7, 7, 11, 12}}) {
    std::vector<int64_t> total(whole.sums.size());
    for (size_t rank = 0; rank + 1 < borders.size(); ++rank) {
      const Range columns{borders[rank] * kLeaf, (borders[rank + 1] - borders[rank]) * kLeaf};
      std::vector<float> part;
      for (int64_t t = 0; t < 3; ++t) {
        const float* row = x.data() + t * w.columns + columns.begin;
        part.insert(part.end(), row, row + columns.count);
      }
      const Rig::Leaves leaves = rig.ProductLeaves(
          AllIsas()[rank % AllIsas().size()], rig.Pack(w, {0, w.rows}, columns), part, 3, kLeaf);
      for (size_t i = 0; i < total.size(); ++i) total[i] += leaves.sums[i];
    }
    EXPECT_EQ(total, whole.sums);
  }
}

TEST(LinearLeaves, AddToWhatStandsThere) {
  const WeightSample w = MakeWeights(DType::kF32, 16, 32, 22);
  Rig rig;
  const PackedMatrix matrix = rig.Pack(w);
  const std::vector<float> x = RandomFloats(32, 23);
  const Rig::Leaves once = rig.ProductLeaves(BestIsa(), matrix, x, 1, 32);
  for (const Isa isa : AllIsas()) {
    Activations activations;
    activations.Assign(isa, x.data(), 1, 32, 32, false, rig.pool);
    std::vector<int64_t> sums = once.sums;
    int64_t failed = 5;
    LinearLeaves(isa, matrix, activations, 32, sums.data(), 16, &failed, rig.pool);
    for (size_t i = 0; i < 16; ++i) EXPECT_EQ(sums[i], 2 * once.sums[i]);
    EXPECT_EQ(failed, 5);
  }
}

/// A 1-row float matrix whose product with one-hot activations is `value`.
Rig::Leaves LeafOf(Isa isa, float value) {
  WeightSample w = MakeWeights(DType::kF32, 1, 32, 24);
  std::fill(w.bytes.begin(), w.bytes.end(), std::byte{0});
  std::memcpy(w.bytes.data(), &value, 4);
  std::vector<float> x(32);
  x[0] = 1.0F;
  Rig rig;
  return rig.ProductLeaves(isa, rig.Pack(w), x, 1, 32);
}

TEST(LinearLeaves, RoundToNearestEvenOnceAndFlagWhatIsOutOfRange) {
  for (const Isa isa : AllIsas()) {
    const float quantum = std::ldexp(1.0F, -32);
    EXPECT_EQ(LeafOf(isa, 0.5F * quantum).sums[0], 0);
    EXPECT_EQ(LeafOf(isa, 1.5F * quantum).sums[0], 2);
    EXPECT_EQ(LeafOf(isa, 2.5F * quantum).sums[0], 2);
    EXPECT_EQ(LeafOf(isa, -2.5F * quantum).sums[0], -2);
    EXPECT_EQ(LeafOf(isa, -3.5F * quantum).sums[0], -4);
    EXPECT_EQ(LeafOf(isa, std::numeric_limits<float>::denorm_min()).sums[0], 0);
    EXPECT_EQ(LeafOf(isa, 1.0F).sums[0], int64_t{1} << 32);

    const float largest = std::nextafter(4194304.0F, 0.0F);
    EXPECT_EQ(LeafOf(isa, -largest).sums[0], -static_cast<int64_t>(largest * 4294967296.0));
    EXPECT_EQ(LeafOf(isa, largest).failed[0], 0);
    for (const float bad : {4194304.0F, -4194304.0F, kInfinity, -kInfinity, kNan, 3e38F}) {
      EXPECT_EQ(LeafOf(isa, bad).failed[0], 1) << bad;
      EXPECT_EQ(LeafOf(isa, bad).sums[0], 0) << bad;
    }
  }
}

TEST(LinearLeaves, NonFiniteInputFailsItsTokenOnly) {
  for (const DType dtype : kAllDTypes) {
    const WeightSample w = MakeWeights(dtype, 19, 256, 25);
    Rig rig(2);
    const PackedMatrix matrix = rig.Pack(w);
    for (const float bad : {kNan, kInfinity, -kInfinity}) {
      std::vector<float> x = RandomFloats(9 * 256, 26);
      x[4 * 256 + 77] = bad;
      for (const Isa isa : AllIsas()) {
        const Rig::Leaves leaves = rig.ProductLeaves(isa, matrix, x, 9, 64);
        for (size_t t = 0; t < 9; ++t) {
          // 19 rows, one leaf each; the padding of the second tile does not count.
          EXPECT_EQ(leaves.failed[t], t == 4 ? 19 : 0) << DTypeName(dtype) << IsaName(isa);
        }
        const std::vector<float> out = rig.Product(isa, matrix, x, 9);
        for (size_t i = 0; i < out.size(); ++i) EXPECT_EQ(std::isfinite(out[i]), i / 19 != 4);
      }
    }
  }
}

TEST(LinearLeaves, SumBecomesFloatWithOneRounding) {
  EXPECT_EQ(LeafSumToFloat(0), 0.0F);
  EXPECT_EQ(LeafSumToFloat(1), std::ldexp(1.0F, -32));
  EXPECT_EQ(LeafSumToFloat(-3), std::ldexp(-3.0F, -32));
  // Just above the middle of two floats: through double it would round twice, down.
  const int64_t tricky = (int64_t{1} << 62) + (int64_t{1} << 38) + 1;
  EXPECT_EQ(LeafSumToFloat(tricky), std::ldexp(1.0F + std::ldexp(1.0F, -23), 30));
  EXPECT_EQ(LeafSumToFloat(tricky - 1), std::ldexp(1.0F, 30));
  EXPECT_EQ(LeafSumToFloat(-tricky), -LeafSumToFloat(tricky));
}

}  // namespace
}  // namespace tandem::core
