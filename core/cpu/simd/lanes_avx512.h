#pragma once

#include "core/cpu/simd/lanes.h"

namespace tandem::core {

/// One 512-bit register; only *_avx512.cpp files include this. Operations as in lanes.h.
struct Avx512Lanes {
  __m512 v;

  static Avx512Lanes Set(float x) { return {_mm512_set1_ps(x)}; }
  static Avx512Lanes Load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Avx512Lanes Load(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static Avx512Lanes Load(const Float8* p) {
    return {_mm512_cvtph_ps(HalvesOfFloat8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
  }
  /// One bit a lane below `count`, which may be anything.
  static __mmask16 Below(int count) {
    if (count <= 0) return 0;
    return count >= kLanes ? static_cast<__mmask16>(0xffff)
                           : static_cast<__mmask16>((1U << static_cast<unsigned>(count)) - 1U);
  }
  static Avx512Lanes LoadPart(const float* p, int count) {
    return {_mm512_maskz_loadu_ps(Below(count), p)};
  }
  static Avx512Lanes LoadFixed(const int64_t* p) {
    const __m256 low = _mm512_cvtepi64_ps(_mm512_loadu_si512(p));
    const __m256 high = _mm512_cvtepi64_ps(_mm512_loadu_si512(p + 8));
    const __m512 both = _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
    return {_mm512_mul_ps(both, _mm512_set1_ps(0x1p-32F))};
  }
  static void LoadPairs(const float* p, Avx512Lanes& a, Avx512Lanes& b) {
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512 q0 = _mm512_loadu_ps(p);
    const __m512 q1 = _mm512_loadu_ps(p + 16);
    a.v = _mm512_permutex2var_ps(q0, even, q1);
    b.v = _mm512_permutex2var_ps(q0, _mm512_add_epi32(even, _mm512_set1_epi32(1)), q1);
  }
  static void StorePairs(float* p, Avx512Lanes a, Avx512Lanes b) {
    const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    _mm512_storeu_ps(p, _mm512_permutex2var_ps(a.v, first, b.v));
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
    _mm512_storeu_ps(p + 16, _mm512_permutex2var_ps(a.v, second, b.v));
  }
  void Store(float* p) const { _mm512_storeu_ps(p, v); }
  void StorePart(float* p, int count) const { _mm512_mask_storeu_ps(p, Below(count), v); }

  friend Avx512Lanes operator+(Avx512Lanes a, Avx512Lanes b) { return {_mm512_add_ps(a.v, b.v)}; }
  friend Avx512Lanes operator-(Avx512Lanes a, Avx512Lanes b) { return {_mm512_sub_ps(a.v, b.v)}; }
  friend Avx512Lanes operator*(Avx512Lanes a, Avx512Lanes b) { return {_mm512_mul_ps(a.v, b.v)}; }
  friend Avx512Lanes operator/(Avx512Lanes a, Avx512Lanes b) { return {_mm512_div_ps(a.v, b.v)}; }
  static Avx512Lanes Fma(Avx512Lanes a, Avx512Lanes b, Avx512Lanes c) {
    return {_mm512_fmadd_ps(a.v, b.v, c.v)};
  }
  static Avx512Lanes NegFma(Avx512Lanes a, Avx512Lanes b, Avx512Lanes c) {
    return {_mm512_fnmadd_ps(a.v, b.v, c.v)};
  }
  static Avx512Lanes Max(Avx512Lanes a, Avx512Lanes b) { return {_mm512_max_ps(a.v, b.v)}; }
  static Avx512Lanes Min(Avx512Lanes a, Avx512Lanes b) { return {_mm512_min_ps(a.v, b.v)}; }
  static Avx512Lanes Abs(Avx512Lanes a) { return {_mm512_andnot_ps(_mm512_set1_ps(-0.0F), a.v)}; }
  static Avx512Lanes WithSign(Avx512Lanes a, Avx512Lanes b) {
    return {_mm512_or_ps(a.v, _mm512_and_ps(_mm512_set1_ps(-0.0F), b.v))};
  }
  static Avx512Lanes SelectLess(Avx512Lanes a, Avx512Lanes b, Avx512Lanes x, Avx512Lanes y) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v)};
  }
  static Avx512Lanes AddExponent(Avx512Lanes a, Avx512Lanes steps) {
    const __m512i shifted = _mm512_slli_epi32(_mm512_castps_si512(steps.v), 23);
    return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a.v), shifted))};
  }
  static Avx512Lanes KeepRange(Avx512Lanes a, int begin, int end, float fill) {
    const auto keep = static_cast<__mmask16>(Below(end) & ~Below(begin));
    return {_mm512_mask_blend_ps(keep, _mm512_set1_ps(fill), a.v)};
  }
  static Avx512Lanes KeepBits(Avx512Lanes a, uint32_t bits, float fill) {
    return {_mm512_mask_blend_ps(static_cast<__mmask16>(bits), _mm512_set1_ps(fill), a.v)};
  }
  static float FoldSum(Avx512Lanes a) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  static float FoldMax(Avx512Lanes a) {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
};

}  // namespace tandem::core
