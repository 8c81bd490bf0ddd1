#pragma once

#include "core/cpu/simd/host_device.h"

/// Our own exp, tanh and error function, and what is made of them, for any of the lane types, those
/// of lanes.h and a GPU's: every step is a single IEEE operation or an explicit fma, so they give
/// the same bits everywhere (numerics.md, rule 5).
namespace tandem::core {

/// exp(x) = 2^n * exp(r), n = round(x / ln 2), |r| <= ln 2 / 2.
///
/// exp(r) is 1 + r + r^2 P(r), P of degree 4 fitted to least relative error (3e-9). At most 1 ulp
/// from the exact value where that is a normal number; +0 below 2^-126; clamped to just below the
/// largest float above; NaN for NaN.
template <typename Lanes>
TANDEM_HOST_DEVICE Lanes LanesExp(Lanes x) {
  // exp(kLowest) is the first normal number that a float argument gives, exp(kHighest) the last.
  const Lanes lowest = Lanes::Set(-0x1.5d589ep+6F);
  const Lanes highest = Lanes::Set(0x1.62e42ep+6F);
  const Lanes clamped = Lanes::Max(lowest, Lanes::Min(highest, x));

  // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
  const Lanes magic = Lanes::Set(0x1.8p+23F);
  const Lanes shifted = Lanes::Fma(clamped, Lanes::Set(0x1.715476p+0F), magic);
  const Lanes n = shifted - magic;
  // The first fma is exact; ln 2 is the sum of both constants to 2^-54.
  Lanes r = Lanes::NegFma(n, Lanes::Set(0x1.62e43p-1F), clamped);
  r = Lanes::NegFma(n, Lanes::Set(-0x1.05c61p-29F), r);

  Lanes p = Lanes::Set(0x1.6a23c0p-10F);
  p = Lanes::Fma(p, r, Lanes::Set(0x1.123a22p-7F));
  p = Lanes::Fma(p, r, Lanes::Set(0x1.5558f4p-5F));
  p = Lanes::Fma(p, r, Lanes::Set(0x1.555492p-3F));
  p = Lanes::Fma(p, r, Lanes::Set(0x1.fffffcp-2F));
  p = Lanes::Fma(p, r * r, r) + Lanes::Set(1.0F);

  // The difference is zero, or NaN for NaN, whose exponent the addition would have destroyed.
  const Lanes result = Lanes::AddExponent(p, shifted) + (clamped - clamped);  // NOLINT
  return Lanes::SelectLess(x, lowest, Lanes::Set(0.0F), result);
}

/// tanh(x): below 0.625 in magnitude x + x^3 Q(x^2), Q of degree 4 fitted to least relative error
/// (4e-9); above, 1 - 2 / (exp(2|x|) + 1) with the sign of x. At most 2 ulp from the exact value.
template <typename Lanes>
TANDEM_HOST_DEVICE Lanes LanesTanh(Lanes x) {
  const Lanes y = x * x;
  Lanes q = Lanes::Set(-0x1.75e13ap-8F);
  q = Lanes::Fma(q, y, Lanes::Set(0x1.522678p-6F));
  q = Lanes::Fma(q, y, Lanes::Set(-0x1.b83c54p-5F));
  q = Lanes::Fma(q, y, Lanes::Set(0x1.110726p-3F));
  q = Lanes::Fma(q, y, Lanes::Set(-0x1.555532p-2F));
  const Lanes near_zero = Lanes::Fma(q, y * x, x);

  const Lanes magnitude = Lanes::Abs(x);
  const Lanes e = LanesExp(magnitude + magnitude);
  const Lanes far = Lanes::Set(1.0F) - Lanes::Set(2.0F) / (e + Lanes::Set(1.0F));
  return Lanes::SelectLess(magnitude, Lanes::Set(0.625F), near_zero, Lanes::WithSign(far, x));
}

/// SiLU of the gate times up: gate / (1 + exp(-gate)) * up.
template <typename Lanes>
TANDEM_HOST_DEVICE Lanes LanesSilu(Lanes gate, Lanes up) {
  const Lanes e = LanesExp(Lanes::Set(0.0F) - gate);
  return gate / (Lanes::Set(1.0F) + e) * up;
}

/// GELU, in the tanh form, of the gate times up.
template <typename Lanes>
TANDEM_HOST_DEVICE Lanes LanesGeluTanh(Lanes gate, Lanes up) {
  // sqrt(2 / pi) * (g + 0.044715 g^3)
  const Lanes cubic = Lanes::Fma(Lanes::Set(0.044715F), gate * gate, Lanes::Set(1.0F));
  const Lanes inner = (Lanes::Set(0x1.988454p-1F) * gate) * cubic;
  const Lanes half = Lanes::Set(0.5F) * gate;
  return Lanes::Fma(half, LanesTanh(inner), half) * up;
}

/// GELU of x: x * Phi(x), Phi(x) = erfc(-x / sqrt(2)) / 2. With z = |x| / sqrt(2) and t = 1 / (1 +
/// z / 2), erfc(z) = t exp(-z^2 + P(t)), P of degree 9, relative error 1.2e-7 at most. Source:
/// Press et al., Numerical Recipes, "erfcc".
template <typename Lanes>
TANDEM_HOST_DEVICE Lanes LanesGelu(Lanes x) {
  const Lanes one = Lanes::Set(1.0F);
  const Lanes half = Lanes::Set(0.5F);
  const Lanes z = Lanes::Abs(x) * Lanes::Set(0x1.6a09e6p-1F);
  const Lanes t = one / Lanes::Fma(half, z, one);
  Lanes p = Lanes::Set(0.17087277F);
  p = Lanes::Fma(p, t, Lanes::Set(-0.82215223F));
  p = Lanes::Fma(p, t, Lanes::Set(1.48851587F));
  p = Lanes::Fma(p, t, Lanes::Set(-1.13520398F));
  p = Lanes::Fma(p, t, Lanes::Set(0.27886807F));
  p = Lanes::Fma(p, t, Lanes::Set(-0.18628806F));
  p = Lanes::Fma(p, t, Lanes::Set(0.09678418F));
  p = Lanes::Fma(p, t, Lanes::Set(0.37409196F));
  p = Lanes::Fma(p, t, Lanes::Set(1.00002368F));
  p = Lanes::Fma(p, t, Lanes::Set(-1.26551223F));
  const Lanes tail = half * (t * LanesExp(Lanes::NegFma(z, z, p)));  // Phi(-|x|)
  return x * Lanes::SelectLess(x, Lanes::Set(0.0F), tail, one - tail);
}

/// Rotates the pairs (a, b).
template <typename Lanes>
TANDEM_HOST_DEVICE void LanesRotate(Lanes cosine, Lanes sine, Lanes& a, Lanes& b) {
  const Lanes turned_a = Lanes::Fma(a, cosine, Lanes::Set(0.0F) - b * sine);
  b = Lanes::Fma(a, sine, b * cosine);
  a = turned_a;
}

}  // namespace tandem::core
