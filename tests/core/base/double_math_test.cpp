#include "core/base/double_math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/random.h"

namespace tandem::core {
namespace {

double RelativeError(double found, double expected) {
  if (found == expected) return 0.0;
  return std::fabs(found - expected) / std::fabs(expected);
}

TEST(DoubleMath, LogIsWithinItsBound) {
  testing::SplitMix random(3);
  for (int i = 0; i < 100'000; ++i) {
    const double x = std::ldexp(0.5 + random.Unit(), static_cast<int>(random.Below(2000)) - 1000);
    ASSERT_LE(RelativeError(Log(x), std::log(x)), 4e-16) << x;
  }
  EXPECT_EQ(Log(1.0), 0.0);
  // Near 1, where cancellation would show.
  for (double delta = 1e-15; delta < 0.1; delta *= 1.7) {
    ASSERT_LE(RelativeError(Log(1.0 + delta), std::log(1.0 + delta)), 4e-16) << delta;
    ASSERT_LE(RelativeError(Log(1.0 - delta), std::log(1.0 - delta)), 4e-16) << delta;
  }
}

TEST(DoubleMath, PowIsWithinItsBound) {
  testing::SplitMix random(4);
  for (int i = 0; i < 100'000; ++i) {
    const double base = std::ldexp(0.5 + random.Unit(), static_cast<int>(random.Below(60)) - 20);
    const double exponent = (random.Unit() * 2.0 - 1.0) * 12.0;
    ASSERT_LE(RelativeError(Pow(base, exponent), std::pow(base, exponent)), 1e-15)
        << base << "^" << exponent;
  }
}

TEST(DoubleMath, PowOfRopeBases) {
  for (const double base : {1e4, 1e5, 5e5, 1e6, 1e7}) {
    for (int i = 0; i < 128; ++i) {
      const double exponent = -2.0 * i / 256;
      ASSERT_LE(RelativeError(Pow(base, exponent), std::pow(base, exponent)), 3e-16);
    }
  }
  EXPECT_EQ(Pow(1e6, 0.0), 1.0);
  EXPECT_EQ(Pow(1e4, 1.0), 1e4);
}

TEST(DoubleMath, PowOutsideTheRange) {
  EXPECT_EQ(Pow(1e200, 2.0), std::numeric_limits<double>::infinity());
  EXPECT_EQ(Pow(1e200, -2.0), 0.0);
  EXPECT_LE(RelativeError(Pow(2.0, 1000.5), std::pow(2.0, 1000.5)), 1e-15);
}

}  // namespace
}  // namespace tandem::core
