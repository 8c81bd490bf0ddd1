#include <cstdint>

#include "core/cpu/elementwise/elementwise.h"

namespace tandem::core {
namespace {

struct SineCosine {
  double sine;
  double cosine;
};

/// sin and cos of the exact product position * frequency.
///
/// Cody and Waite: the nearest multiple n of pi/2 is subtracted in two parts of 53 bits, the first
/// fma being exact below n = 2^20; what the product itself lost to rounding is added back. On
/// |r| <= pi/4 polynomials of degree 13 and 14, fitted to least error (4e-18). Absolute error below
/// 3e-16 for |position * frequency| < 2^20.
SineCosine SineCosineOf(double position, double frequency) {
  const double angle = position * frequency;
  const double lost = __builtin_fma(position, frequency, -angle);
  // Adding 1.5 * 2^52 rounds to an integer, whose lowest bits say the quadrant.
  const double magic = 0x1.8p+52;
  const double n = (angle * 0x1.45f306dc9c883p-1 + magic) - magic;
  double r = __builtin_fma(-n, 0x1.921fb54442d18p+0, angle);
  r = __builtin_fma(-n, 0x1.1a62633145c07p-54, r) + lost;

  const double y = r * r;
  double s = 0x1.5d8fa1c3b6fdbp-33;
  s = __builtin_fma(s, y, -0x1.ae5e59f05d4fdp-26);
  s = __builtin_fma(s, y, 0x1.71de35670ac6ap-19);
  s = __builtin_fma(s, y, -0x1.a01a019bfd0ddp-13);
  s = __builtin_fma(s, y, 0x1.111111110f7c9p-7);
  s = __builtin_fma(s, y, -0x1.5555555555548p-3);
  s = __builtin_fma(s, y * r, r);
  double c = -0x1.8fae996a803b6p-37;
  c = __builtin_fma(c, y, 0x1.1ee9ebe2d5b63p-29);
  c = __builtin_fma(c, y, -0x1.27e4f809e6779p-22);
  c = __builtin_fma(c, y, 0x1.a01a019cb1ae3p-16);
  c = __builtin_fma(c, y, -0x1.6c16c16c1517dp-10);
  c = __builtin_fma(c, y, 0x1.555555555554cp-5);
  c = __builtin_fma(c, y * y, __builtin_fma(y, -0.5, 1.0));

  switch (static_cast<int64_t>(n) & 3) {
    case 0:
      return {s, c};
    case 1:
      return {c, -s};
    case 2:
      return {-s, -c};
    default:
      return {-c, s};
  }
}

}  // namespace

void RopeAngles(const Rope& rope, int64_t position, std::span<float> cosines,
                std::span<float> sines) {
  for (size_t i = 0; i < rope.inverse_frequencies.size(); ++i) {
    const SineCosine value =
        SineCosineOf(static_cast<double>(position), rope.inverse_frequencies[i]);
    cosines[i] = static_cast<float>(value.cosine * rope.magnitude);
    sines[i] = static_cast<float>(value.sine * rope.magnitude);
  }
}

}  // namespace tandem::core
