#include "core/cpu/simd/float8.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "core/base/float_convert.h"
#include "core/cpu/simd/lanes.h"

namespace tandem::core {
namespace {

constexpr int kNan = 0x7f;

/// A 256th of what the OCP specification says of a code that is not NaN.
double Meaning(int code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return (code >= 0x80 ? -magnitude : magnitude) / 256;
}

float Read(int code) { return HalfToFloat(HalfOfFloat8(static_cast<Float8>(code))); }
int Code(double x) { return static_cast<int>(ToFloat8(static_cast<float>(x))); }

TEST(Float8, ReadsEveryCode) {
  for (int code = 0; code < 256; ++code) {
    if ((code & kNan) == kNan) continue;  // its vector's scale is NaN
    EXPECT_EQ(Read(code), Meaning(code)) << code;
    EXPECT_EQ(std::signbit(Read(code)), code >= 0x80) << code;
  }
  EXPECT_EQ(Meaning(0x7e), 1.75);
}

TEST(Float8, LanesReadEveryCodeAlike) {
  std::vector<Float8> codes;
  for (int code = 0; code < 256; ++code) codes.push_back(static_cast<Float8>(code));
  for (int first = 0; first < 256; first += kLanes) {
    float scalar[kLanes], avx2[kLanes];
    ScalarLanes<kLanes>::Load(codes.data() + first).Store(scalar);
    Avx2Lanes::Load(codes.data() + first).Store(avx2);
    for (int i = 0; i < kLanes; ++i) {
      EXPECT_EQ(scalar[i], Read(first + i));
      EXPECT_EQ(MagnitudeBits(scalar[i] - avx2[i]), 0U) << first + i;
      EXPECT_EQ(std::signbit(scalar[i]), std::signbit(avx2[i])) << first + i;
    }
  }
}

TEST(Float8, EveryCodeComesBack) {
  for (int code = 0; code < 256; ++code) {
    if ((code & kNan) == kNan) continue;
    EXPECT_EQ(Code(Meaning(code)), code);
  }
}

TEST(Float8, TiesGoToTheEvenCode) {
  for (int code = 0; code < 0x7e; ++code) {
    const double tie = (Meaning(code) + Meaning(code + 1)) / 2;
    const int even = code + code % 2;
    const int odd_side = code % 2 == 0 ? code + 1 : code;
    EXPECT_EQ(Code(tie), even) << code;
    EXPECT_EQ(Code(-tie), even | 0x80) << code;
    const auto beyond = static_cast<float>(Meaning(odd_side));
    EXPECT_EQ(Code(std::nextafter(static_cast<float>(tie), beyond)), odd_side) << code;
  }
}

TEST(Float8, RoundsToTheNearest) {
  std::mt19937 generator(1);
  for (int i = 0; i < 200'000; ++i) {
    const float x =
        std::ldexp(static_cast<float>(generator()) * 0x1p-31F - 1.0F, -static_cast<int>(i % 24));
    if (std::fabs(x) > kLargestFloat8) continue;
    const int code = Code(x);
    const double error = std::fabs(Meaning(code) - x);
    for (const int other : {code - 1, code + 1}) {
      if (other < 0 || other > 255 || (other & kNan) == kNan) continue;
      ASSERT_LE(error, std::fabs(Meaning(other) - x)) << x << " " << other;
    }
  }
}

TEST(Float8, WhatIsTooLargeIsTheLargest) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float x : {1.76F, 1.875F, 2.0F, 1e30F, infinity}) {
    EXPECT_EQ(Code(x), 0x7e);
    EXPECT_EQ(Code(-x), 0xfe);
  }
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(Code(nan), kNan);
  EXPECT_EQ(Code(-nan), kNan);
}

TEST(Float8, ScalesMakeTheLargestTheLargestCode) {
  std::mt19937 generator(2);
  for (int i = 0; i < 10'000; ++i) {
    const float amax = std::ldexp(1.0F + static_cast<float>(generator()) * 0x1p-32F,
                                  static_cast<int>(generator() % 250) - 125);
    const Float8Scale scale = ScaleOfFloat8(MagnitudeBits(amax));
    EXPECT_EQ(scale.scale, amax / 1.75F);
    EXPECT_EQ(scale.inverse, 1.75F / amax);
    EXPECT_EQ(Code(amax * scale.inverse), 0x7e) << amax;
  }
}

}  // namespace
}  // namespace tandem::core
