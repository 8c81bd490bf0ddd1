#pragma once

#include <cstdint>
#include <span>

#include "core/base/isa.h"
#include "core/model/config.h"

/// Functions of one row (one token, or one head of one token). Same bits for every Isa; order in
/// numerics.md, rule 5.
namespace tandem::core {

/// Our own exp, used by softmax, SiLU and GELU: a polynomial with explicit fma, exponent added as
/// an integer after clamping. At most 1 ulp from the exact value where that is a normal float32; 0
/// below; +inf never (clamped just below the largest float); NaN for NaN.
float Exp(float x);
/// At most 2 ulp from the exact value; NaN for NaN.
float Tanh(float x);

/// A norm on the host, as Norm (core/model/norm.h) has it.
struct NormRow {
  NormKind kind = NormKind::kRms;
  float epsilon = 0.0F;
  std::span<const float> weight;  // [n]
  std::span<const float> bias;    // [n], or empty
};

/// Normalizes one row. x, out: [n]; out may be x.
///
/// Sums of a row are added in 16 lanes, lane = index mod 16, ascending, then folded i with i + 8,
/// 4, 2, 1.
///
///     kRms    scale = 1 / sqrt(sum of x^2 by fma / n + epsilon); out = (x * scale) * weight
///     kLayer  mean = sum of x / n; scale = 1 / sqrt(sum of (x - mean)^2 by fma / n + epsilon);
///             out = ((x - mean) * scale) * weight
///     both    out = out + bias, where there is one
///     kBatch  out = fma(x, weight, bias)
void Normalize(Isa isa, const NormRow& norm, std::span<const float> x, std::span<float> out);

/// The same with kRms and no bias.
void RmsNorm(Isa isa, std::span<const float> x, std::span<const float> weight, float epsilon,
             std::span<float> out);

/// out = act(gate) * up; out may be gate. [n] SiLU is g / (1 + exp(-g)); GELU is g * Phi(g), or in
/// the tanh form g / 2 * (1 + tanh(sqrt(2 / pi) * (g + 0.044715 g^3))). Source: Shazeer 2020;
/// Hendrycks & Gimpel 2016.
void GatedActivation(Isa isa, Activation kind, std::span<const float> gate,
                     std::span<const float> up, std::span<float> out);

/// x = act(x). [n]
void Activate(Isa isa, Activation kind, std::span<float> x);

/// x += y. [n]
void AddInPlace(Isa isa, std::span<float> x, std::span<const float> y);

/// out = float(sums) (+ bias, where not empty). sums, out: [n]
void PartialSumsToFloat(Isa isa, std::span<const int64_t> sums, std::span<const float> bias,
                        std::span<float> out);

/// cos and sin of every pair's angle at one position, times the magnitude, computed in double by
/// our own routines (absolute error below 1e-15 while the angle is below 2^20) and rounded once.
/// cosines, sines: [rotary dimensions / 2]
void RopeAngles(const Rope& rope, int64_t position, std::span<float> cosines,
                std::span<float> sines);

/// Rotates one head's vector in place: (a, b) becomes (fma(a, cos, -(b * sin)), fma(a, sin, b *
/// cos)). x: [head_dim]; dimensions past the rotary ones stay. Source: Su et al. 2021.
void Rotate(Isa isa, RopeLayout layout, std::span<const float> cosines,
            std::span<const float> sines, std::span<float> x);

}  // namespace tandem::core
