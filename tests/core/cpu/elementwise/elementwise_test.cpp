#include "core/cpu/elementwise/elementwise.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "tests/support/isas.h"

namespace tandem::core {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<float> Random(size_t n, float size, uint32_t seed) {
  std::mt19937 generator(seed);
  std::vector<float> values(n);
  for (float& value : values) {
    // Not std::normal_distribution, whose numbers differ between libraries.
    value = size * (static_cast<float>(generator()) * 0x1p-31F - 1.0F);
  }
  return values;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// |value - exact| in units of the last place of float32 at `exact`.
double Ulps(float value, double exact) {
  const float magnitude = std::fabs(static_cast<float>(exact));
  const double ulp = magnitude < std::numeric_limits<float>::min()
                         ? 0x1p-149
                         : std::ldexp(1.0, std::ilogb(static_cast<double>(magnitude)) - 23);
  return std::fabs(value - exact) / ulp;
}

/// Every 997th float, both signs, NaN and infinities left out.
template <typename Function>
void ForManyFloats(Function function) {
  for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += 997) {
    const float x = std::bit_cast<float>(static_cast<uint32_t>(bits));
    if (std::isfinite(x)) function(x);
  }
}

// Lengths around the 16 lanes, and those of real models.
const size_t kLengths[] = {1, 2, 7, 15, 16, 17, 31, 32, 33, 63, 64, 576, 640, 1536, 2048};

TEST(Exp, IsWithinOneUlp) {
  double worst = 0.0;
  ForManyFloats([&](float x) {
    if (x >= -0x1.5d589ep+6F && x <= 0x1.62e42ep+6F) {
      worst = std::max(worst, Ulps(Exp(x), std::exp(static_cast<double>(x))));
    } else if (x < 0.0F) {
      ASSERT_EQ(std::bit_cast<uint32_t>(Exp(x)), 0U) << x;
    } else {
      ASSERT_EQ(Exp(x), Exp(0x1.62e42ep+6F)) << x;
    }
  });
  EXPECT_LE(worst, 1.0);
}

TEST(Exp, IsWithinOneUlpWhereSoftmaxUsesIt) {
  double worst = 0.0;
  for (int i = 0; i <= 2000000; ++i) {
    const float x = -static_cast<float>(i) * 1e-5F;
    worst = std::max(worst, Ulps(Exp(x), std::exp(static_cast<double>(x))));
  }
  EXPECT_LE(worst, 1.0);
}

TEST(Exp, HandlesSpecialValues) {
  EXPECT_EQ(Exp(0.0F), 1.0F);
  EXPECT_EQ(Exp(-0.0F), 1.0F);
  EXPECT_EQ(Exp(-kInfinity), 0.0F);
  EXPECT_TRUE(std::isfinite(Exp(kInfinity)));
  EXPECT_GT(Exp(kInfinity), 3.4e38F);
  EXPECT_TRUE(std::isnan(Exp(kNan)));
  EXPECT_TRUE(std::isnan(Exp(-kNan)));
}

TEST(Tanh, IsWithinTwoUlps) {
  double worst = 0.0;
  ForManyFloats([&](float x) {
    worst = std::max(worst, Ulps(Tanh(x), std::tanh(static_cast<double>(x))));
    ASSERT_EQ(Tanh(-x), -Tanh(x));
  });
  EXPECT_LE(worst, 2.0);
  EXPECT_EQ(Tanh(kInfinity), 1.0F);
  EXPECT_EQ(Tanh(-kInfinity), -1.0F);
  EXPECT_TRUE(std::isnan(Tanh(kNan)));
}

TEST(RmsNorm, AgreesWithDouble) {
  for (const size_t n : kLengths) {
    for (const float size : {1e-4F, 1.0F, 1e4F}) {
      const std::vector<float> x = Random(n, size, 1), weight = Random(n, 2.0F, 2);
      double squares = 0.0;
      for (const float v : x) squares += static_cast<double>(v) * v;
      const double scale = 1.0 / std::sqrt(squares / static_cast<double>(n) + 1e-6F);
      std::vector<float> out(n);
      RmsNorm(Isa::kScalar, x, weight, 1e-6F, out);
      // Each lane adds n / 16 positive terms, the fold four more, division, sum, root, division and
      // two products round once each; the root halves what stands under it.
      const double roundings = (static_cast<double>(n) / 16 + 1 + 4 + 2) / 2 + 4;
      for (size_t i = 0; i < n; ++i) {
        const double exact = x[i] * scale * weight[i];
        ASSERT_NEAR(out[i], exact, std::fabs(exact) * roundings * 0x1p-24) << n << " " << i;
      }
    }
  }
}

TEST(RmsNorm, WorksInPlaceAndOnZeros) {
  for (const Isa isa : test::SupportedIsas()) {
    std::vector<float> x = Random(100, 1.0F, 3);
    const std::vector<float> weight = Random(100, 1.0F, 4);
    std::vector<float> out(100);
    RmsNorm(isa, x, weight, 1e-5F, out);
    RmsNorm(isa, x, weight, 1e-5F, x);
    EXPECT_TRUE(SameBits(x, out));
    std::vector<float> zeros(100);
    RmsNorm(isa, zeros, weight, 1e-5F, out);
    for (const float v : out) EXPECT_EQ(v, 0.0F);
  }
}

TEST(GatedActivation, AgreesWithDouble) {
  const size_t n = 100000;
  const std::vector<float> gate = Random(n, 20.0F, 5), up = Random(n, 3.0F, 6);
  std::vector<float> silu(n), gelu(n);
  GatedActivation(Isa::kScalar, Activation::kSilu, gate, up, silu);
  GatedActivation(Isa::kScalar, Activation::kGeluTanh, gate, up, gelu);
  for (size_t i = 0; i < n; ++i) {
    const double g = gate[i];
    const double exact_silu = g / (1.0 + std::exp(-g)) * up[i];
    ASSERT_LE(Ulps(silu[i], exact_silu), 4.0) << g;
    const double inner = std::sqrt(2.0 / M_PI) * (g + 0.044715 * g * g * g);
    const double exact_gelu = 0.5 * g * (1.0 + std::tanh(inner)) * up[i];
    // 1 + tanh cancels for negative gates: the error of tanh, two units of 2^-24, and of its
    // argument stays absolute.
    const double slope =
        std::fabs(inner) / std::pow(std::cosh(std::min(std::fabs(inner), 50.0)), 2);
    const double absolute = std::fabs(0.5 * g * up[i]) * (2.0 + 6.0 * slope) * 0x1p-24;
    ASSERT_NEAR(gelu[i], exact_gelu, absolute + 3 * 0x1p-24 * std::fabs(exact_gelu)) << g;
  }
}

TEST(GatedActivation, HandlesHugeGates) {
  const std::vector<float> gate = {-1e30F, -200.0F, -88.0F, 88.0F, 200.0F, 1e12F, kNan};
  const std::vector<float> up(gate.size(), 1.0F);
  for (const Activation kind : {Activation::kSilu, Activation::kGeluTanh}) {
    std::vector<float> out(gate.size());
    GatedActivation(Isa::kScalar, kind, gate, up, out);
    EXPECT_NEAR(out[0], 0.0F, 1e-7F);
    EXPECT_NEAR(out[1], 0.0F, 1e-30F);
    EXPECT_NEAR(out[2], 0.0F, 1e-30F);
    EXPECT_EQ(out[3], 88.0F);
    EXPECT_EQ(out[4], 200.0F);
    EXPECT_EQ(out[5], 1e12F);
    EXPECT_TRUE(std::isnan(out[6]));
  }
}

TEST(PartialSumsToFloat, RoundsOnce) {
  // 2^53 + 1 and 2^54 + 2^30 + 1 would round wrongly if they went through double.
  const std::vector<int64_t> sums = {0,
                                     1,
                                     -1,
                                     int64_t{1} << 32,
                                     -(int64_t{3} << 31),
                                     (int64_t{1} << 54) + (int64_t{1} << 30) + 1,
                                     -((int64_t{1} << 54) + (int64_t{1} << 30) + 1),
                                     (int64_t{1} << 24) + 1,
                                     (int64_t{1} << 24) + 3,
                                     std::numeric_limits<int64_t>::max(),
                                     std::numeric_limits<int64_t>::min()};
  const std::vector<float> expected = {0.0F,           0x1p-32F,        -0x1p-32F,        1.0F,
                                       -1.5F,          0x1.000002p+22F, -0x1.000002p+22F, 0x1p-8F,
                                       0x1.000004p-8F, 0x1p+31F,        -0x1p+31F};
  // Long enough for the vector loop to see every value too.
  std::vector<int64_t> repeated;
  for (int i = 0; i < 5; ++i) repeated.insert(repeated.end(), sums.begin(), sums.end());
  for (const Isa isa : test::SupportedIsas()) {
    std::vector<float> out(repeated.size());
    PartialSumsToFloat(isa, repeated, {}, out);
    for (size_t i = 0; i < out.size(); ++i) EXPECT_EQ(out[i], expected[i % sums.size()]) << i;
    const std::vector<float> bias(repeated.size(), 0.25F);
    PartialSumsToFloat(isa, repeated, bias, out);
    for (size_t i = 0; i < out.size(); ++i) {
      EXPECT_EQ(out[i], expected[i % sums.size()] + 0.25F) << i;
    }
  }
}

TEST(RopeAngles, AgreesWithGoldenFile) {
  std::ifstream file(std::string(TANDEM_SOURCE_DIR) + "/tests/golden/rope/angles.csv");
  std::string line;
  ASSERT_TRUE(std::getline(file, line));
  int rows = 0;
  while (std::getline(file, line)) {
    char* next = nullptr;
    const int64_t position = std::strtoll(line.c_str(), &next, 10);
    Rope rope;
    rope.inverse_frequencies = {std::strtod(next + 1, &next)};
    const double cosine = std::strtod(next + 1, &next), sine = std::strtod(next + 1, &next);
    float c = 0.0F, s = 0.0F;
    RopeAngles(rope, position, {&c, 1}, {&s, 1});
    // Half a unit of float32, and 1e-15 for the double before it was rounded.
    EXPECT_NEAR(c, cosine, std::fabs(cosine) * 0x1p-24 + 1e-15) << line;
    EXPECT_NEAR(s, sine, std::fabs(sine) * 0x1p-24 + 1e-15) << line;
    // Differences in double are too small to see in a float, but not at a thousandth of the scale:
    // a magnitude can lift the low bits into view.
    rope.magnitude = 0x1p+24;
    RopeAngles(rope, position, {&c, 1}, {&s, 1});
    EXPECT_NEAR(c, cosine * 0x1p+24, std::fabs(cosine) + 1e-15 * 0x1p+24) << line;
    EXPECT_NEAR(s, sine * 0x1p+24, std::fabs(sine) + 1e-15 * 0x1p+24) << line;
    ++rows;
  }
  EXPECT_GT(rows, 800);
}

TEST(RopeAngles, AppliesMagnitude) {
  Rope rope;
  rope.inverse_frequencies = {1.0, 0.5};
  rope.magnitude = 1.25;
  std::vector<float> c(2), s(2);
  RopeAngles(rope, 3, c, s);
  EXPECT_EQ(c[1], static_cast<float>(1.25 * std::cos(1.5)));
  EXPECT_EQ(s[0], static_cast<float>(1.25 * std::sin(3.0)));
}

TEST(Rotate, TurnsPairsOfEitherLayout) {
  for (const RopeLayout layout : {RopeLayout::kAdjacentPairs, RopeLayout::kHalves}) {
    for (const size_t pairs : {1, 4, 8, 15, 16, 17, 32, 40, 128}) {
      const std::vector<float> x = Random(2 * pairs + 5, 3.0F, 7);
      Rope rope;
      for (size_t i = 0; i < pairs; ++i) {
        rope.inverse_frequencies.push_back(std::pow(1e4, -static_cast<double>(i) / 40));
      }
      std::vector<float> c(pairs), s(pairs), turned = x;
      RopeAngles(rope, 77, c, s);
      Rotate(Isa::kScalar, layout, c, s, turned);
      for (size_t i = 0; i < pairs; ++i) {
        const bool adjacent = layout == RopeLayout::kAdjacentPairs;
        const size_t first = adjacent ? 2 * i : i, second = adjacent ? 2 * i + 1 : i + pairs;
        const double a = x[first], b = x[second];
        const double bound = (std::fabs(a) + std::fabs(b)) * 0x1p-24;  // two roundings
        EXPECT_NEAR(turned[first], a * c[i] - b * s[i], bound);
        EXPECT_NEAR(turned[second], a * s[i] + b * c[i], bound);
      }
      for (size_t i = 2 * pairs; i < x.size(); ++i) EXPECT_EQ(turned[i], x[i]);
      for (const Isa isa : test::SupportedIsas()) {
        std::vector<float> again = x;
        Rotate(isa, layout, c, s, again);
        EXPECT_TRUE(SameBits(again, turned)) << IsaName(isa) << " " << pairs;
      }
    }
  }
}

TEST(Elementwise, GivesTheSameBitsOnEveryIsa) {
  for (const size_t n : kLengths) {
    const std::vector<float> a = Random(n, 9.0F, 8), b = Random(n, 2.0F, 9);
    std::vector<int64_t> sums(n);
    std::mt19937_64 generator(10);
    for (int64_t& sum : sums) sum = static_cast<int64_t>(generator());
    std::vector<std::vector<float>> reference;
    for (const Isa isa : test::SupportedIsas()) {
      std::vector<std::vector<float>> results(6, std::vector<float>(n));
      RmsNorm(isa, a, b, 1e-5F, results[0]);
      GatedActivation(isa, Activation::kSilu, a, b, results[1]);
      GatedActivation(isa, Activation::kGeluTanh, a, b, results[2]);
      results[3] = a;
      AddInPlace(isa, results[3], b);
      PartialSumsToFloat(isa, sums, {}, results[4]);
      PartialSumsToFloat(isa, sums, b, results[5]);
      if (reference.empty()) reference = results;
      for (size_t i = 0; i < results.size(); ++i) {
        EXPECT_TRUE(SameBits(results[i], reference[i])) << IsaName(isa) << " " << n << " " << i;
      }
    }
  }
}

TEST(Elementwise, ActivationsGiveTheSameBitsForManyFloats) {
  std::vector<float> gate;
  for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += 10007) {
    const float x = std::bit_cast<float>(static_cast<uint32_t>(bits));
    if (std::isfinite(x)) gate.push_back(x);
  }
  const std::vector<float> up(gate.size(), 1.0F);
  for (const Activation kind : {Activation::kSilu, Activation::kGeluTanh}) {
    std::vector<float> reference(gate.size()), out(gate.size());
    GatedActivation(Isa::kScalar, kind, gate, up, reference);
    for (const Isa isa : test::SupportedIsas()) {
      GatedActivation(isa, kind, gate, up, out);
      for (size_t i = 0; i < out.size(); ++i) {
        // NaN (infinity times zero) is promised, its bits are not.
        if (std::isnan(reference[i]) && std::isnan(out[i])) out[i] = reference[i];
      }
      EXPECT_TRUE(SameBits(out, reference)) << IsaName(isa);
    }
  }
}

}  // namespace
}  // namespace tandem::core
