#include <immintrin.h>

#include "core/cpu/linear/linear_template.h"

namespace tandem::core {
namespace {

/// 16 lanes as two registers.
struct Avx2 {
  static constexpr bool kReducesBy128 = true;
  static constexpr bool kLoadsInProducts = false;
  static constexpr bool kAddsPartialSumsBetweenProducts = false;
  template <DType kDtype, int kTokens>
  static constexpr bool kPartialSumsInHalves = false;
  struct Int {
    __m256i low;
    __m256i high;
  };
  struct Float {
    __m256 low;
    __m256 high;
  };
  using Codes = __m256i;

  // 16 registers hold the sums of four pairs of tile and token, floats and integers.
  template <DType kDtype>
  static void AddKernels(TileKernels& kernels) {
    if constexpr (TileFormatOf(kDtype).quantized()) {
      AddKernel<Avx2, kDtype, 1, 2>(kernels);
    } else {
      AddKernel<Avx2, kDtype, 1, 4>(kernels);
      AddKernel<Avx2, kDtype, 4, 1>(kernels);
    }
    AddKernel<Avx2, kDtype, 1, 1>(kernels);
  }

  static TANDEM_INLINE Int Zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static TANDEM_INLINE Float FloatZero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static TANDEM_INLINE Int Load(const std::byte* at) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)),
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at + 32))};
  }
  static TANDEM_INLINE Int ShiftRight(Int v, int bits) {
    return {_mm256_srli_epi32(v.low, bits), _mm256_srli_epi32(v.high, bits)};
  }
  static TANDEM_INLINE Int Shift(Int v, int bits) {
    if (bits < 0) return ShiftRight(v, -bits);
    return {_mm256_slli_epi32(v.low, bits), _mm256_slli_epi32(v.high, bits)};
  }
  static TANDEM_INLINE Int And(Int v, uint32_t mask) {
    const __m256i m = _mm256_set1_epi32(static_cast<int32_t>(mask));
    return {_mm256_and_si256(v.low, m), _mm256_and_si256(v.high, m)};
  }
  static TANDEM_INLINE Int Or(Int v, Int w) {
    return {_mm256_or_si256(v.low, w.low), _mm256_or_si256(v.high, w.high)};
  }
  static TANDEM_INLINE Codes LoadActivations(const int8_t* codes) {
    int32_t four;
    std::memcpy(&four, codes, sizeof(four));
    return _mm256_set1_epi32(four);
  }
  /// Sums of products stay int16, of two columns each, for as many steps as fit: 2 * 127 times the
  /// largest code a step. Codes of 8 bits go reduced by 128, as |w| and sign(w) * a, because
  /// unsigned they would saturate: 2 * 128 * 127 = 32512.
  template <int kBits>
  class Products {
   public:
    TANDEM_INLINE void Begin(Int from) { total_ = from; }
    TANDEM_INLINE void Add(Int w, Codes a) {
      const Int next = {Pairs(w.low, a), Pairs(w.high, a)};
      pairs_ = steps_ == 0 ? next
                           : Int{_mm256_add_epi16(pairs_.low, next.low),
                                 _mm256_add_epi16(pairs_.high, next.high)};
      if (++steps_ == kMostSteps) AddPairs();
    }
    TANDEM_INLINE Int Total() {
      if (steps_ != 0) AddPairs();
      return total_;
    }

   private:
    static constexpr int kMostSteps = kBits == 8 ? 1 : 32767 / (2 * 127 * ((1 << kBits) - 1));

    static TANDEM_INLINE __m256i Pairs(__m256i w, Codes a) {
      if constexpr (kBits == 8) {
        const __m256i reduced = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
        return _mm256_maddubs_epi16(_mm256_abs_epi8(reduced), _mm256_sign_epi8(a, reduced));
      } else {
        return _mm256_maddubs_epi16(w, a);
      }
    }
    TANDEM_INLINE void AddPairs() {
      const __m256i ones = _mm256_set1_epi16(1);
      total_ = {_mm256_add_epi32(total_.low, _mm256_madd_epi16(pairs_.low, ones)),
                _mm256_add_epi32(total_.high, _mm256_madd_epi16(pairs_.high, ones))};
      steps_ = 0;
    }

    Int total_;
    Int pairs_;
    int steps_ = 0;  // known to the compiler once the loops are unrolled
  };
  template <int kShift>
  static TANDEM_INLINE Int StartDot(const int32_t* n) {
    const __m256i scaled = _mm256_slli_epi32(_mm256_set1_epi32(*n), kShift);
    return {scaled, scaled};
  }
  static TANDEM_INLINE Float ToFloat(Int v) {
    return {_mm256_cvtepi32_ps(v.low), _mm256_cvtepi32_ps(v.high)};
  }
  static TANDEM_INLINE Float Broadcast(float value) {
    return {_mm256_set1_ps(value), _mm256_set1_ps(value)};
  }
  static TANDEM_INLINE Float LoadF32(const std::byte* at) {
    const auto* floats = reinterpret_cast<const float*>(at);
    return {_mm256_loadu_ps(floats), _mm256_loadu_ps(floats + 8)};
  }
  static TANDEM_INLINE Float LoadF16(const std::byte* at) {
    const auto* halves = reinterpret_cast<const __m128i*>(at);
    return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
  }
  static TANDEM_INLINE Float LoadBF16(const std::byte* at) {
    const auto* halves = reinterpret_cast<const __m128i*>(at);
    return {Widen(_mm_loadu_si128(halves)), Widen(_mm_loadu_si128(halves + 1))};
  }
  static TANDEM_INLINE Int LoadInt8(const std::byte* at) {
    const auto* bytes = reinterpret_cast<const __m128i*>(at);
    return {_mm256_cvtepi8_epi32(_mm_loadl_epi64(bytes)),
            _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at + 8)))};
  }
  static TANDEM_INLINE Int LowNibbles(const std::byte* at) { return And(LoadInt8(at), 15); }
  static TANDEM_INLINE Int HighNibbles(const std::byte* at) {
    return And(ShiftRight(LoadInt8(at), 4), 15);
  }
  static TANDEM_INLINE Float Multiply(Float a, Float b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
  }
  static TANDEM_INLINE Float Fma(Float a, Float b, Float c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static TANDEM_INLINE void Store(float* at, Float v) {
    _mm256_storeu_ps(at, v.low);
    _mm256_storeu_ps(at + 8, v.high);
  }
  static TANDEM_INLINE Int LargerMagnitude(Int m, Float v) {
    const Int magnitude =
        And({_mm256_castps_si256(v.low), _mm256_castps_si256(v.high)}, 0x7fffffff);
    return {_mm256_max_epu32(m.low, magnitude.low), _mm256_max_epu32(m.high, magnitude.high)};
  }
  static TANDEM_INLINE bool ReachesPartialSumLimit(Int m) {
    // Magnitudes have no sign bit, so the signed comparison will do.
    const __m256i reached = _mm256_cmpgt_epi32(_mm256_max_epu32(m.low, m.high),
                                               _mm256_set1_epi32(kPartialSumLimitBits - 1));
    return _mm256_testz_si256(reached, reached) == 0;
  }
  static TANDEM_INLINE void AddPartialSum(Float v, int64_t* sums) {
    AddHalfPartialSum(v.low, sums);
    AddHalfPartialSum(v.high, sums + 8);
  }

 private:
  /// v * 2^32 rounded, in two steps that are exact but for the last: the multiples of 2^24 in it,
  /// cut off towards zero, and the nearest integer to the rest. Both fit into int32.
  static TANDEM_INLINE void AddHalfPartialSum(__m256 v, int64_t* sums) {
    const __m256i large = _mm256_cvttps_epi32(_mm256_mul_ps(v, _mm256_set1_ps(0x1p8F)));
    const __m256 rest = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(large), _mm256_set1_ps(0x1p-8F), v);
    const __m256i small = _mm256_cvtps_epi32(_mm256_mul_ps(rest, _mm256_set1_ps(kPartialSumScale)));
    AddFourPartialSums(_mm256_castsi256_si128(large), _mm256_castsi256_si128(small), sums);
    AddFourPartialSums(_mm256_extracti128_si256(large, 1), _mm256_extracti128_si256(small, 1),
                       sums + 4);
  }
  static TANDEM_INLINE void AddFourPartialSums(__m128i large, __m128i small, int64_t* sums) {
    auto* to = reinterpret_cast<__m256i*>(sums);
    const __m256i partial = _mm256_add_epi64(_mm256_slli_epi64(_mm256_cvtepi32_epi64(large), 24),
                                             _mm256_cvtepi32_epi64(small));
    _mm256_storeu_si256(to, _mm256_add_epi64(_mm256_loadu_si256(to), partial));
  }
  static TANDEM_INLINE __m256 Widen(__m128i halves) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  }
};

}  // namespace

TileKernels Avx2Kernels(DType dtype) { return KernelsOf<Avx2>(dtype); }

}  // namespace tandem::core
