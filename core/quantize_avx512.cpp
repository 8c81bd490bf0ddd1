#include <immintrin.h>

#include "core/quantize_kernel.h"
#include "core/quantize_scale.h"

namespace tandem::core {
namespace {

uint32_t LargestLane(__m512i v) {
  const __m256i half = _mm256_max_epu32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
  __m128i m = _mm_max_epu32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(m));
}

int32_t SumOfBytes(__m128i codes) {
  // Biased by 128 to be unsigned, as the instruction wants.
  const __m128i biased = _mm_xor_si128(codes, _mm_set1_epi8(-128));
  const __m128i sums = _mm_sad_epu8(biased, _mm_setzero_si128());
  return _mm_cvtsi128_si32(sums) + _mm_extract_epi32(sums, 2) - 16 * 128;
}

__m512i Magnitude(__m512 values) {
  return _mm512_and_si512(_mm512_castps_si512(values), _mm512_set1_epi32(0x7fffffff));
}

void QuantizeBlock(__m512 low, __m512 high, int64_t block, const QuantizedRow& row) {
  const BlockScale scale =
      ScaleOfBlock(LargestLane(_mm512_max_epu32(Magnitude(low), Magnitude(high))));
  __m128i codes[2] = {_mm_setzero_si128(), _mm_setzero_si128()};
  if (scale.inverse != 0) {
    const __m512 inverse = _mm512_set1_ps(scale.inverse);
    codes[0] = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(low, inverse)));
    codes[1] = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(high, inverse)));
  }
  int8_t* out = row.codes + block * row.group_tokens * kBlockColumns;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), codes[0]);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 16), codes[1]);
  WriteScaleAndSums(scale.scale, SumOfBytes(codes[0]), SumOfBytes(codes[1]), block, row);
}

}  // namespace

void QuantizeAvx512(const float* x, int64_t columns, const QuantizedRow& row) {
  const int64_t whole = columns / kBlockColumns;
  for (int64_t b = 0; b < whole; ++b) {
    const float* values = x + b * kBlockColumns;
    QuantizeBlock(_mm512_loadu_ps(values), _mm512_loadu_ps(values + 16), b, row);
  }
  const auto rest = static_cast<unsigned>(columns % kBlockColumns);
  if (rest != 0) {
    const float* values = x + whole * kBlockColumns;
    const uint32_t mask = (1U << rest) - 1;
    const __m512 high = rest > 16
                            ? _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), values + 16)
                            : _mm512_setzero_ps();
    QuantizeBlock(_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), values), high, whole, row);
  }
}

}  // namespace tandem::core
