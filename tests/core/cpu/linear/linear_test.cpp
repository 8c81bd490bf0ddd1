#include "core/cpu/linear/linear.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "core/cpu/elementwise/elementwise.h"
#include "tests/core/cpu/linear/linear_reference.h"
#include "tests/core/cpu/linear/weight_samples.h"

namespace tandem::core {
namespace {

class LinearOfDType : public ::testing::TestWithParam<DType> {};

INSTANTIATE_TEST_SUITE_P(All, LinearOfDType, ::testing::ValuesIn(kAllDTypes), DTypeParamName);

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

class LinearOfQuantizedDType : public LinearOfDType {};

std::vector<DType> QuantizedDTypes() {
  std::vector<DType> types;
  for (const DType dtype : kAllDTypes) {
    if (BlockElements(dtype) > 1) types.push_back(dtype);
  }
  return types;
}
INSTANTIATE_TEST_SUITE_P(All, LinearOfQuantizedDType, ::testing::ValuesIn(QuantizedDTypes()),
                         DTypeParamName);

TEST_P(LinearOfQuantizedDType, LongTilesHaveTheBitsOfTheReference) {
  // Long enough that tiles share a token; 6 of them, the last not full.
  const WeightSample w = MakeWeights(GetParam(), 85, 8448, 30);
  for (const int threads : {1, 2}) {
    Rig rig(threads);
    const PackedMatrix matrix = rig.Pack(w);
    for (const int64_t tokens : {1, 3}) {
      const std::vector<float> x = RandomFloats(tokens * w.columns, 31);
      const std::vector<float> expected =
          ProductReference(w, {0, w.rows}, {0, w.columns}, x, tokens);
      for (const Isa isa : AllIsas()) {
        ExpectSameBits(rig.Product(isa, matrix, x, tokens), expected, std::string(IsaName(isa)));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(LinearOfQuantizedDType, ExtremeCodesStayExact) {
  // The largest sums there are: saturation anywhere would show.
  for (const CodeChoice choice : {CodeChoice::kSmallest, CodeChoice::kLargest}) {
    const WeightSample w = MakeWeights(GetParam(), 16, 256, 6, choice);
    Rig rig;
    const PackedMatrix matrix = rig.Pack(w);
    std::vector<float> x(3 * 256);
    for (size_t c = 0; c < 256; ++c) {
      x[c] = 3.0F;
      x[256 + c] = -3.0F;
      x[512 + c] = c % 2 == 0 ? 3.0F : -3.0F;
    }
    const std::vector<float> expected = ProductReference(w, {0, 16}, {0, 256}, x, 3);
    for (const Isa isa : AllIsas()) {
      ExpectSameBits(rig.Product(isa, matrix, x, 3), expected, std::string(IsaName(isa)));
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
    EXPECT_THAT(rig.Product(isa, no_columns, {}, 2), ::testing::Each(0.0F));
    const Rig::PartialSums partials = rig.ProductPartialSums(isa, no_columns, {}, 2, 64);
    EXPECT_THAT(partials.sums, ::testing::Each(0));
    EXPECT_THAT(partials.failed, ::testing::Each(0));
  }
}

TEST(Linear, SeveralJobsGiveWhatEachGivesAlone) {
  const WeightSample samples[] = {MakeWeights(DType::kQ4_1, 100, 96, 31),
                                  MakeWeights(DType::kQ8_0, 33, 96, 32),
                                  MakeWeights(DType::kF16, 16, 96, 33)};
  for (const int threads : {1, 3}) {
    Rig rig(threads);
    for (const int64_t tokens : {1, 5, 19}) {
      const std::vector<float> x = RandomFloats(tokens * 96, 34);
      for (const Isa isa : AllIsas()) {
        Activations activations;
        activations.Assign(isa, {x.data(), tokens, 96, 96}, true, rig.pool);
        std::vector<PackedMatrix> matrices;
        std::vector<std::vector<float>> outs;
        std::vector<LinearJob> jobs;
        for (const WeightSample& w : samples) {
          matrices.push_back(rig.Pack(w));
          outs.emplace_back(static_cast<size_t>(tokens * matrices.back().rows()));
        }
        for (size_t i = 0; i < matrices.size(); ++i) {
          jobs.push_back({&matrices[i], outs[i].data(), matrices[i].rows()});
        }
        Linear(isa, jobs, activations, rig.pool);
        for (size_t i = 0; i < matrices.size(); ++i) {
          ExpectSameBits(outs[i], rig.Product(Isa::kScalar, matrices[i], x, tokens), "together");
        }
      }
    }
  }
}

/// Gated products as codes are what quantizing the floats gives. floats: [tokens, 200]
void ExpectSameCodes(Isa isa, const PackedMatrix& gate, const PackedMatrix& up, Activation kind,
                     const Activations& x, const std::vector<float>& floats, ThreadPool& pool) {
  Activations expected;
  expected.Assign(Isa::kScalar, {floats.data(), x.tokens(), 200, 200}, true, pool);
  Activations found;
  GatedLinear(isa, {kind, gate, up}, x, found, pool);
  ASSERT_EQ(found.tokens(), x.tokens());
  ASSERT_EQ(found.columns(), 200);
  for (int64_t i = 0; i < expected.groups(); ++i) {
    const Activations::Group a = expected.group(i);
    const Activations::Group b = found.group(i);
    ASSERT_EQ(a.tokens, b.tokens);
    const auto cells = static_cast<size_t>(a.tokens * expected.blocks());
    EXPECT_EQ(std::memcmp(a.codes, b.codes, cells * kBlockColumns), 0);
    EXPECT_EQ(std::memcmp(a.scales, b.scales, cells * sizeof(float)), 0);
    EXPECT_EQ(std::memcmp(a.negative_sums, b.negative_sums, 3 * cells * sizeof(int32_t)), 0);
    EXPECT_EQ(std::memcmp(a.float_sums, b.float_sums, 3 * cells * sizeof(float)), 0);
  }
}

TEST(Linear, GatedProductsAreTwoProductsAndTheActivation) {
  const WeightSample gate = MakeWeights(DType::kQ4_0, 200, 64, 35);
  const WeightSample up = MakeWeights(DType::kQ5_1, 200, 64, 36);
  for (const int threads : {1, 3}) {
    Rig rig(threads);
    const PackedMatrix gate_matrix = rig.Pack(gate);
    const PackedMatrix up_matrix = rig.Pack(up);
    for (const int64_t tokens : {1, 7, 20}) {
      const std::vector<float> x = RandomFloats(tokens * 64, 37);
      const std::vector<float> gates = rig.Product(Isa::kScalar, gate_matrix, x, tokens);
      const std::vector<float> ups = rig.Product(Isa::kScalar, up_matrix, x, tokens);
      for (const Activation kind : {Activation::kSilu, Activation::kGeluTanh}) {
        std::vector<float> expected(gates.size());
        for (size_t t = 0; t < static_cast<size_t>(tokens); ++t) {
          GatedActivation(Isa::kScalar, kind, std::span(gates).subspan(t * 200, 200),
                          std::span(ups).subspan(t * 200, 200),
                          std::span(expected).subspan(t * 200, 200));
        }
        for (const Isa isa : AllIsas()) {
          Activations activations;
          activations.Assign(isa, {x.data(), tokens, 64, 64}, true, rig.pool);
          std::vector<float> out(expected.size());
          GatedLinear(isa, {kind, gate_matrix, up_matrix}, activations, out.data(), 200, rig.pool);
          ExpectSameBits(out, expected, "gated");
          ExpectSameCodes(isa, gate_matrix, up_matrix, kind, activations, expected, rig.pool);
        }
      }
    }
  }
}

TEST(Linear, StridesLeaveTheirGapsAlone) {
  const WeightSample w = MakeWeights(DType::kQ4_0, 20, 64, 13);
  Rig rig;
  const PackedMatrix matrix = rig.Pack(w);
  const std::vector<float> x = RandomFloats(3 * 70, 14);
  for (const Isa isa : AllIsas()) {
    Activations activations;
    activations.Assign(isa, {x.data(), 3, 64, 70}, true, rig.pool);
    std::vector<float> out(3 * 25, 77.0F);
    const LinearJob job = {&matrix, out.data(), 25};
    Linear(isa, {&job, 1}, activations, rig.pool);
    for (int64_t t = 0; t < 3; ++t) {
      for (int64_t r = 0; r < 25; ++r) {
        const float found = out[static_cast<size_t>(25 * t + r)];
        EXPECT_EQ(found,
                  r < 20 ? PartialSumReference(w, r, {0, 64}, x.data() + 70 * t, true) : 77.0F);
      }
    }
  }
}

}  // namespace
}  // namespace tandem::core
