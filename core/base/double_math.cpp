#include "core/base/double_math.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace tandem::core {
namespace {

/// An unevaluated sum, |low| at most half an ulp of high.
struct DoublePair {
  double high;
  double low;
};

/// a + b exactly. Source: Knuth, TAOCP vol. 2, 4.2.2.
DoublePair TwoSum(double a, double b) {
  const double sum = a + b;
  const double part = sum - a;
  return {sum, (a - (sum - part)) + (b - part)};
}

/// a * b exactly.
DoublePair TwoProduct(double a, double b) {
  const double product = a * b;
  return {product, std::fma(a, b, -product)};
}

// ln 2 in two parts; the first has 21 trailing zero bits, so that its product with an exponent is
// exact. Source: fdlibm.
constexpr double kLn2High = 6.93147180369123816490e-01;
constexpr double kLn2Low = 1.90821492927058770002e-10;
constexpr double kInverseLn2 = 1.44269504088896338700e+00;
constexpr double kSqrt2 = 1.41421356237309514547;

constexpr int kExponentBias = 1023;
constexpr int kMantissaBits = 52;

double PowerOfTwo(int exponent) {
  return std::bit_cast<double>(static_cast<uint64_t>(exponent + kExponentBias) << kMantissaBits);
}

/// ln x to about 70 bits: x = 2^e m with m in [sqrt(1/2), sqrt(2)), s = (m - 1) / (m + 1), and
/// ln m = 2 (s + s^3/3 + s^5/5 + ...).
DoublePair LogPair(double x) {
  const auto bits = std::bit_cast<uint64_t>(x);
  int exponent = static_cast<int>(bits >> kMantissaBits) - kExponentBias;
  double m = std::bit_cast<double>((bits & ((uint64_t{1} << kMantissaBits) - 1)) |
                                   uint64_t{kExponentBias} << kMantissaBits);
  if (m > kSqrt2) {
    m *= 0.5;
    exponent += 1;
  }
  const double numerator = m - 1.0;  // exact
  const DoublePair denominator = TwoSum(m, 1.0);
  const double s = numerator / denominator.high;
  const double s_low =
      (std::fma(-s, denominator.high, numerator) - s * denominator.low) / denominator.high;
  const double square = s * s;
  // |s| < 0.1716: the first term left out, s^25 / 25 against s, is below 2^-65.
  double series = 1.0 / 23;
  for (int n = 21; n >= 3; n -= 2) series = std::fma(series, square, 1.0 / n);
  const double tail = 2.0 * std::fma(s * square, series, s_low);

  const auto e = static_cast<double>(exponent);
  const DoublePair sum = TwoSum(e * kLn2High, 2.0 * s);
  return TwoSum(sum.high, sum.low + std::fma(e, kLn2Low, tail));
}

/// e^(x.high + x.low)
double ExpPair(DoublePair x) {
  constexpr double kOverflow = 709.7;
  constexpr double kUnderflow = -708.3;
  if (x.high > kOverflow) return std::numeric_limits<double>::infinity();
  if (x.high < kUnderflow) return 0.0;
  // Adding 1.5 * 2^52 rounds to an integer.
  constexpr double kRounder = 6755399441055744.0;
  const double k = (x.high * kInverseLn2 + kRounder) - kRounder;
  const DoublePair r = TwoSum(std::fma(-k, kLn2High, x.high), std::fma(-k, kLn2Low, x.low));
  // |r| < 0.3467: the first term left out, r^18 / 18!, is below 2^-80.
  double inverse_factorial[18];
  inverse_factorial[0] = 1.0;
  for (int n = 1; n < 18; ++n) inverse_factorial[n] = inverse_factorial[n - 1] / n;
  double series = inverse_factorial[17];
  for (int n = 16; n >= 2; --n) series = std::fma(series, r.high, inverse_factorial[n]);
  // e^(h + l) = e^h (1 + l)
  const double tail = std::fma(r.high * r.high, series, r.low);
  const double head = 1.0 + (r.high + std::fma(r.high, r.low, tail));
  const int exponent = static_cast<int>(k);
  return head * PowerOfTwo(exponent / 2) * PowerOfTwo(exponent - exponent / 2);
}

}  // namespace

double Log(double x) {
  const DoublePair log = LogPair(x);
  return log.high + log.low;
}

double Pow(double base, double exponent) {
  const DoublePair log = LogPair(base);
  const DoublePair product = TwoProduct(log.high, exponent);
  return ExpPair(TwoSum(product.high, std::fma(log.low, exponent, product.low)));
}

}  // namespace tandem::core
