#include <immintrin.h>

#include "core/cpu/linear/linear_template.h"

namespace tandem::core {
namespace {

/// 16 lanes as one register.
struct Avx512 {
  static constexpr bool kReducesBy128 = false;
  static constexpr bool kAddsPartialSumsBetweenProducts = true;
  static constexpr bool kLoadsInProducts = true;
  // With few tokens, starting and ending takes longer than what it saves.
  template <DType kDtype, int kTokens>
  static constexpr bool kPartialSumsInHalves = TileFormatOf(kDtype).quantized() && kTokens >= 4;
  using Int = __m512i;
  using Float = __m512;
  using Codes = __m512i;

  // Two tiles share each load of activations, which would else be the bottleneck. With few tokens,
  // several tiles keep more sums in flight, or share activations (see Product::Suits).
  template <DType kDtype>
  static void AddKernels(TileKernels& kernels) {
    if constexpr (TileFormatOf(kDtype).quantized()) {
      AddKernel<Avx512, kDtype, 1, 8>(kernels);
      AddKernel<Avx512, kDtype, 2, 4>(kernels);
      AddKernel<Avx512, kDtype, 1, 4>(kernels);
    } else {
      AddKernel<Avx512, kDtype, 2, 8>(kernels);
      AddKernel<Avx512, kDtype, 4, 1>(kernels);
    }
    AddKernel<Avx512, kDtype, 1, 2>(kernels);
    if constexpr (TileFormatOf(kDtype).quantized()) AddKernel<Avx512, kDtype, 4, 1>(kernels);
    AddKernel<Avx512, kDtype, 1, 1>(kernels);
  }

  static TANDEM_INLINE Int Zero() { return _mm512_setzero_si512(); }
  static TANDEM_INLINE Float FloatZero() { return _mm512_setzero_ps(); }
  static TANDEM_INLINE Int Load(const std::byte* at) { return _mm512_loadu_si512(at); }
  static TANDEM_INLINE Int ShiftRight(Int v, int bits) {
    return _mm512_srli_epi32(v, static_cast<unsigned>(bits));
  }
  static TANDEM_INLINE Int Shift(Int v, int bits) {
    return bits < 0 ? ShiftRight(v, -bits) : _mm512_slli_epi32(v, static_cast<unsigned>(bits));
  }
  static TANDEM_INLINE Int And(Int v, uint32_t mask) {
    return _mm512_and_si512(v, _mm512_set1_epi32(static_cast<int32_t>(mask)));
  }
  static TANDEM_INLINE Int Or(Int v, Int w) { return _mm512_or_si512(v, w); }
  static TANDEM_INLINE Codes LoadActivations(const int8_t* codes) {
    int32_t four;
    std::memcpy(&four, codes, sizeof(four));
    return _mm512_set1_epi32(four);
  }
  template <int kBits>
  struct Products {
    Int sum;
    TANDEM_INLINE void Begin(Int from) { sum = from; }
    TANDEM_INLINE void Add(Int w, Codes a) { sum = _mm512_dpbusd_epi32(sum, w, a); }
    // GCC 12 loads and multiplies apart.
    TANDEM_INLINE void AddLoaded(Int w, const int8_t* codes) {
      using Four [[gnu::may_alias, gnu::aligned(1)]] = int32_t;
      asm("vpdpbusd %2%{1to16%}, %1, %0"
          : "+v"(sum)
          : "v"(w), "m"(*reinterpret_cast<const Four*>(codes)));
    }
    TANDEM_INLINE Int Total() const { return sum; }
  };
  template <int kShift>
  static TANDEM_INLINE Int StartDot(const int32_t* n) {
    return _mm512_slli_epi32(_mm512_set1_epi32(*n), kShift);
  }
  static TANDEM_INLINE Float ToFloat(Int v) { return _mm512_cvtepi32_ps(v); }
  static TANDEM_INLINE Float Broadcast(float value) { return _mm512_set1_ps(value); }
  static TANDEM_INLINE Float LoadF32(const std::byte* at) { return _mm512_loadu_ps(at); }
  static TANDEM_INLINE Float LoadF16(const std::byte* at) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
  }
  static TANDEM_INLINE Float LoadBF16(const std::byte* at) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at))), 16));
  }
  static TANDEM_INLINE Int LoadInt8(const std::byte* at) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
  }
  static TANDEM_INLINE Int LowNibbles(const std::byte* at) { return And(LoadInt8(at), 15); }
  static TANDEM_INLINE Int HighNibbles(const std::byte* at) {
    return And(ShiftRight(LoadInt8(at), 4), 15);
  }
  static TANDEM_INLINE Float Multiply(Float a, Float b) { return _mm512_mul_ps(a, b); }
  static TANDEM_INLINE Float Fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  static TANDEM_INLINE void Store(float* at, Float v) { _mm512_storeu_ps(at, v); }
  static TANDEM_INLINE Int LargerMagnitude(Int m, Float v) {
    return _mm512_max_epu32(m, And(_mm512_castps_si512(v), 0x7fffffff));
  }
  static TANDEM_INLINE bool ReachesPartialSumLimit(Int m) {
    return _mm512_cmpge_epu32_mask(m, _mm512_set1_epi32(kPartialSumLimitBits)) != 0;
  }
  static TANDEM_INLINE void AddPartialSum(Float v, int64_t* sums) {
    // Times 2^32 as an addition to the exponent, which leaves the multipliers to the products.
    // Zeros and denormals become something that rounds to zero too.
    const __m512 scaled = _mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_castps_si512(v), _mm512_set1_epi32(kPartialSumExponent << 23)));
    const __m512i low = _mm512_cvtps_epi64(_mm512_castps512_ps256(scaled));
    const __m512i high = _mm512_cvtps_epi64(_mm512_extractf32x8_ps(scaled, 1));
    _mm512_storeu_si512(sums, _mm512_add_epi64(_mm512_loadu_si512(sums), low));
    _mm512_storeu_si512(sums + 8, _mm512_add_epi64(_mm512_loadu_si512(sums + 8), high));
  }

  static TANDEM_INLINE __m512 UpperHalf() { return _mm512_set1_ps(0x1.8p+14F); }
  static TANDEM_INLINE __m512 LowerHalf() { return _mm512_set1_ps(0x1.8p-9F); }
  static TANDEM_INLINE void StoreInt(int32_t* at, Int v) { _mm512_store_si512(at, v); }
  static TANDEM_INLINE void AddHalves(Float v, int32_t* upper, int32_t* lower, Int& seen) {
    const auto add_bits = [](int32_t* sums, __m512 bits) TANDEM_INLINE_LAMBDA {
      StoreInt(sums, _mm512_add_epi32(_mm512_load_si512(sums), _mm512_castps_si512(bits)));
    };
    const __m512 t = _mm512_add_ps(v, UpperHalf());
    constexpr int kOrDifference = 0xf6;  // a | (b ^ c)
    seen = _mm512_ternarylogic_epi32(seen, _mm512_castps_si512(t), _mm512_castps_si512(UpperHalf()),
                                     kOrDifference);
    add_bits(upper, t);
    const __m512 rest = _mm512_sub_ps(v, _mm512_sub_ps(t, UpperHalf()));
    add_bits(lower, _mm512_add_ps(rest, LowerHalf()));
  }
  static TANDEM_INLINE bool LeavesBinade(Int seen) {
    return _mm512_test_epi32_mask(seen, _mm512_set1_epi32(static_cast<int32_t>(0xff800000))) != 0;
  }
  static TANDEM_INLINE void StoreHalves(const int32_t* upper, const int32_t* lower,
                                        int32_t partials, int64_t* sums) {
    const auto counted = [partials](const int32_t* half, __m512 constant) TANDEM_INLINE_LAMBDA {
      const __m512i begin =
          _mm512_mullo_epi32(_mm512_set1_epi32(partials), _mm512_castps_si512(constant));
      return _mm512_sub_epi32(_mm512_load_si512(half), begin);
    };
    const __m512i high = counted(upper, UpperHalf());
    const __m512i low = counted(lower, LowerHalf());
    const auto store = [](__m256i h, __m256i l, int64_t* to) TANDEM_INLINE_LAMBDA {
      constexpr int kUpperBits = 23;  // 2^-9 in units of 2^-32
      _mm512_storeu_si512(to,
                          _mm512_add_epi64(_mm512_slli_epi64(_mm512_cvtepi32_epi64(h), kUpperBits),
                                           _mm512_cvtepi32_epi64(l)));
    };
    store(_mm512_castsi512_si256(high), _mm512_castsi512_si256(low), sums);
    store(_mm512_extracti64x4_epi64(high, 1), _mm512_extracti64x4_epi64(low, 1), sums + 8);
  }
};

}  // namespace

TileKernels Avx512Kernels(DType dtype) { return KernelsOf<Avx512>(dtype); }

}  // namespace tandem::core
