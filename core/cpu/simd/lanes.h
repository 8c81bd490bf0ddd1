#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "core/cpu/simd/float8.h"

/// Sixteen logical float lanes, three ways: the elementwise and attention kernels are templates
/// over one of these types and are compiled once for each, so they agree bit for bit by
/// construction (numerics.md, rules 1 and 5).
///
/// Every operation is IEEE single precision, rounded to nearest, lane by lane. `Max(a, b)` is a > b
/// ? a : b and `Min(a, b)` is a < b ? a : b, the second operand where either is NaN, as x86 has
/// them. Folds pair lane i with i + 8, then i + 4, i + 2, i + 1. For lanes that hold NaN only being
/// NaN is promised, not which. Nothing here calls a function of the standard library: what an
/// AVX-512 file compiles must never be what the linker picks for the others.
namespace tandem::core {

inline constexpr int kLanes = 16;

/// The obvious loops. kCount is 16, or 1 for a single number.
template <int kCount>
struct ScalarLanes {
  float v[kCount];

  template <typename Function>
  static ScalarLanes Make(Function function) {
    ScalarLanes r;
    for (int i = 0; i < kCount; ++i) r.v[i] = function(i);
    return r;
  }
  static uint32_t Bits(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
  }
  static float FromBits(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
  }

  static ScalarLanes Set(float x) {
    return Make([&](int) { return x; });
  }
  static ScalarLanes Load(const float* p) {
    return Make([&](int i) { return p[i]; });
  }
  static ScalarLanes Load(const uint16_t* p) {
    return Make([&](int i) { return _cvtsh_ss(p[i]); });
  }
  static ScalarLanes Load(const Float8* p) {
    return Make([&](int i) { return _cvtsh_ss(HalfOfFloat8(p[i])); });
  }
  static ScalarLanes LoadPart(const float* p, int count) {
    return Make([&](int i) { return i < count ? p[i] : 0.0F; });
  }
  /// float(p[i]) * 2^-32, rounded once.
  static ScalarLanes LoadFixed(const int64_t* p) {
    return Make([&](int i) { return static_cast<float>(p[i]) * 0x1p-32F; });
  }
  /// Even elements of p[0..32) to a, odd ones to b.
  static void LoadPairs(const float* p, ScalarLanes& a, ScalarLanes& b) {
    a = Make([&](int i) { return p[2 * i]; });
    b = Make([&](int i) { return p[2 * i + 1]; });
  }
  static void StorePairs(float* p, ScalarLanes a, ScalarLanes b) {
    for (int i = 0; i < kCount; ++i) {
      p[2 * i] = a.v[i];
      p[2 * i + 1] = b.v[i];
    }
  }
  void Store(float* p) const {
    for (int i = 0; i < kCount; ++i) p[i] = v[i];
  }
  void StorePart(float* p, int count) const {
    for (int i = 0; i < count; ++i) p[i] = v[i];
  }

  friend ScalarLanes operator+(ScalarLanes a, ScalarLanes b) {
    return Make([&](int i) { return a.v[i] + b.v[i]; });
  }
  friend ScalarLanes operator-(ScalarLanes a, ScalarLanes b) {
    return Make([&](int i) { return a.v[i] - b.v[i]; });
  }
  friend ScalarLanes operator*(ScalarLanes a, ScalarLanes b) {
    return Make([&](int i) { return a.v[i] * b.v[i]; });
  }
  friend ScalarLanes operator/(ScalarLanes a, ScalarLanes b) {
    return Make([&](int i) { return a.v[i] / b.v[i]; });
  }
  /// a * b + c, rounded once.
  static ScalarLanes Fma(ScalarLanes a, ScalarLanes b, ScalarLanes c) {
    return Make([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
  }
  /// c - a * b, rounded once.
  static ScalarLanes NegFma(ScalarLanes a, ScalarLanes b, ScalarLanes c) {
    return Make([&](int i) { return __builtin_fmaf(-a.v[i], b.v[i], c.v[i]); });
  }
  static ScalarLanes Max(ScalarLanes a, ScalarLanes b) {
    return Make([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  static ScalarLanes Min(ScalarLanes a, ScalarLanes b) {
    return Make([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  static ScalarLanes Abs(ScalarLanes a) {
    return Make([&](int i) { return FromBits(Bits(a.v[i]) & 0x7fffffffU); });
  }
  /// The magnitude of a (not negative) with the sign of b.
  static ScalarLanes WithSign(ScalarLanes a, ScalarLanes b) {
    return Make([&](int i) { return FromBits(Bits(a.v[i]) | (Bits(b.v[i]) & 0x80000000U)); });
  }
  /// a < b ? x : y.
  static ScalarLanes SelectLess(ScalarLanes a, ScalarLanes b, ScalarLanes x, ScalarLanes y) {
    return Make([&](int i) { return a.v[i] < b.v[i] ? x.v[i] : y.v[i]; });
  }
  /// Adds the low nine bits of `steps`, read as an integer, to the exponent of a.
  static ScalarLanes AddExponent(ScalarLanes a, ScalarLanes steps) {
    return Make([&](int i) { return FromBits(Bits(a.v[i]) + (Bits(steps.v[i]) << 23)); });
  }
  /// Lanes in [begin, end) keep their value, the others become `fill`.
  static ScalarLanes KeepRange(ScalarLanes a, int begin, int end, float fill) {
    return Make([&](int i) { return i >= begin && i < end ? a.v[i] : fill; });
  }
  /// Lanes whose bit is 1 keep their value, the others become `fill`.
  static ScalarLanes KeepBits(ScalarLanes a, uint32_t bits, float fill) {
    return Make([&](int i) { return ((bits >> i) & 1U) != 0 ? a.v[i] : fill; });
  }
  static float FoldSum(ScalarLanes a) {
    for (int half = kCount / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) a.v[i] += a.v[i + half];
    }
    return a.v[0];
  }
  static float FoldMax(ScalarLanes a) {
    for (int half = kCount / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
    }
    return a.v[0];
  }
};

/// HalfOfFloat8 of sixteen: widened with its sign and shifted, a code has the sign twice.
namespace {
inline __attribute__((always_inline)) __m256i HalvesOfFloat8(__m128i codes) {
  const __m256i shifted = _mm256_slli_epi16(_mm256_cvtepi8_epi16(codes), 7);
  return _mm256_and_si256(shifted, _mm256_set1_epi16(static_cast<int16_t>(0xbfff)));
}
}  // namespace

/// Two 256-bit registers.
struct Avx2Lanes {
  __m256 lo, hi;

  static Avx2Lanes Set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static Avx2Lanes Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static Avx2Lanes Load(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
  }
  static Avx2Lanes Load(const Float8* p) {
    const __m256i halves = HalvesOfFloat8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return {_mm256_cvtph_ps(_mm256_castsi256_si128(halves)),
            _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1))};
  }
  /// All ones in lanes below `count`, for the eight lanes from `first`.
  static __m256i Below(int count, int first) {
    const __m256i lane =
        _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(first));
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane);
  }
  static Avx2Lanes LoadPart(const float* p, int count) {
    return {_mm256_maskload_ps(p, Below(count, 0)), _mm256_maskload_ps(p + 8, Below(count, 8))};
  }
  static Avx2Lanes LoadFixed(const int64_t* p) {
    float converted[kLanes];
    for (int i = 0; i < kLanes; ++i) converted[i] = static_cast<float>(p[i]);
    return Load(converted) * Set(0x1p-32F);
  }
  static void LoadPairs(const float* p, Avx2Lanes& a, Avx2Lanes& b) {
    const __m256i order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
    const __m256 q0 = _mm256_permutevar8x32_ps(_mm256_loadu_ps(p), order);
    const __m256 q1 = _mm256_permutevar8x32_ps(_mm256_loadu_ps(p + 8), order);
    const __m256 q2 = _mm256_permutevar8x32_ps(_mm256_loadu_ps(p + 16), order);
    const __m256 q3 = _mm256_permutevar8x32_ps(_mm256_loadu_ps(p + 24), order);
    a = {_mm256_permute2f128_ps(q0, q1, 0x20), _mm256_permute2f128_ps(q2, q3, 0x20)};
    b = {_mm256_permute2f128_ps(q0, q1, 0x31), _mm256_permute2f128_ps(q2, q3, 0x31)};
  }
  static void StorePairs(float* p, Avx2Lanes a, Avx2Lanes b) {
    const auto store = [](float* to, __m256 even, __m256 odd) {
      const __m256 low = _mm256_unpacklo_ps(even, odd);
      const __m256 high = _mm256_unpackhi_ps(even, odd);
      _mm256_storeu_ps(to, _mm256_permute2f128_ps(low, high, 0x20));
      _mm256_storeu_ps(to + 8, _mm256_permute2f128_ps(low, high, 0x31));
    };
    store(p, a.lo, b.lo);
    store(p + 16, a.hi, b.hi);
  }
  void Store(float* p) const {
    _mm256_storeu_ps(p, lo);
    _mm256_storeu_ps(p + 8, hi);
  }
  void StorePart(float* p, int count) const {
    _mm256_maskstore_ps(p, Below(count, 0), lo);
    _mm256_maskstore_ps(p + 8, Below(count, 8), hi);
  }

  friend Avx2Lanes operator+(Avx2Lanes a, Avx2Lanes b) {
    return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
  }
  friend Avx2Lanes operator-(Avx2Lanes a, Avx2Lanes b) {
    return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
  }
  friend Avx2Lanes operator*(Avx2Lanes a, Avx2Lanes b) {
    return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
  }
  friend Avx2Lanes operator/(Avx2Lanes a, Avx2Lanes b) {
    return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
  }
  static Avx2Lanes Fma(Avx2Lanes a, Avx2Lanes b, Avx2Lanes c) {
    return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
  }
  static Avx2Lanes NegFma(Avx2Lanes a, Avx2Lanes b, Avx2Lanes c) {
    return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
  }
  static Avx2Lanes Max(Avx2Lanes a, Avx2Lanes b) {
    return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
  }
  static Avx2Lanes Min(Avx2Lanes a, Avx2Lanes b) {
    return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
  }
  static Avx2Lanes Abs(Avx2Lanes a) {
    const __m256 sign = _mm256_set1_ps(-0.0F);
    return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
  }
  static Avx2Lanes WithSign(Avx2Lanes a, Avx2Lanes b) {
    const __m256 sign = _mm256_set1_ps(-0.0F);
    return {_mm256_or_ps(a.lo, _mm256_and_ps(sign, b.lo)),
            _mm256_or_ps(a.hi, _mm256_and_ps(sign, b.hi))};
  }
  static Avx2Lanes SelectLess(Avx2Lanes a, Avx2Lanes b, Avx2Lanes x, Avx2Lanes y) {
    return {_mm256_blendv_ps(y.lo, x.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
            _mm256_blendv_ps(y.hi, x.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
  }
  static Avx2Lanes AddExponent(Avx2Lanes a, Avx2Lanes steps) {
    const auto add = [](__m256 x, __m256 n) {
      return _mm256_castsi256_ps(
          _mm256_add_epi32(_mm256_castps_si256(x), _mm256_slli_epi32(_mm256_castps_si256(n), 23)));
    };
    return {add(a.lo, steps.lo), add(a.hi, steps.hi)};
  }
  static Avx2Lanes KeepRange(Avx2Lanes a, int begin, int end, float fill) {
    const __m256 f = _mm256_set1_ps(fill);
    const auto keep = [&](__m256 x, int first) {
      const __m256i mask = _mm256_andnot_si256(Below(begin, first), Below(end, first));
      return _mm256_blendv_ps(f, x, _mm256_castsi256_ps(mask));
    };
    return {keep(a.lo, 0), keep(a.hi, 8)};
  }
  static Avx2Lanes KeepBits(Avx2Lanes a, uint32_t bits, float fill) {
    const __m256 f = _mm256_set1_ps(fill);
    const auto keep = [&](__m256 x, __m256i of_lanes) {
      const __m256i mask = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), of_lanes);
      return _mm256_blendv_ps(f, x, _mm256_castsi256_ps(_mm256_cmpeq_epi32(mask, of_lanes)));
    };
    const __m256i low = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return {keep(a.lo, low), keep(a.hi, _mm256_slli_epi32(low, 8))};
  }
  static float FoldSum(Avx2Lanes a) {
    const __m256 eight = _mm256_add_ps(a.lo, a.hi);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  static float FoldMax(Avx2Lanes a) {
    const __m256 eight = _mm256_max_ps(a.lo, a.hi);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
};

}  // namespace tandem::core
