#include <immintrin.h>

#include "core/cpu/linear/quantize_kernel.h"
#include "core/cpu/linear/quantize_scale.h"

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

/// Lane t is the largest lane of largest[t].
__m256i LargestLanes(const __m512i (&largest)[kQuantizedTogether]) {
  __m256i halves[kQuantizedTogether];
  for (int t = 0; t < kQuantizedTogether; ++t) {
    halves[t] = _mm256_max_epu32(_mm512_castsi512_si256(largest[t]),
                                 _mm512_extracti64x4_epi64(largest[t], 1));
  }
  __m256i pairs[4];
  for (int i = 0; i < 4; ++i) {
    pairs[i] = _mm256_max_epu32(_mm256_unpacklo_epi32(halves[2 * i], halves[2 * i + 1]),
                                _mm256_unpackhi_epi32(halves[2 * i], halves[2 * i + 1]));
  }
  __m256i fours[2];
  for (int i = 0; i < 2; ++i) {
    fours[i] = _mm256_max_epu32(_mm256_unpacklo_epi64(pairs[2 * i], pairs[2 * i + 1]),
                                _mm256_unpackhi_epi64(pairs[2 * i], pairs[2 * i + 1]));
  }
  return _mm256_max_epu32(_mm256_permute2x128_si256(fours[0], fours[1], 0x20),
                          _mm256_permute2x128_si256(fours[0], fours[1], 0x31));
}

/// 32 codes of a token, then 32 of the next. [2 tokens][2 halves]
__m512i PackCodes(const __m512i (&codes)[4]) {
  const __m512i packed = _mm512_packs_epi16(_mm512_packs_epi32(codes[0], codes[1]),
                                            _mm512_packs_epi32(codes[2], codes[3]));
  // Each 128 bits have four codes of everyone.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(order, packed);
}

/// Sums of the halves of four tokens' codes, biased by 16 * 128, in the order of first and second
/// half of tokens 0, 2, 0, 2, 1, 3, 1, 3 (two of the first, two of the second).
__m256i SumsOfFour(__m512i two, __m512i next_two) {
  const __m512i bias = _mm512_set1_epi8(-128);
  const __m512i a = _mm512_sad_epu8(_mm512_xor_si512(two, bias), _mm512_setzero_si512());
  const __m512i b = _mm512_sad_epu8(_mm512_xor_si512(next_two, bias), _mm512_setzero_si512());
  return _mm512_cvtepi64_epi32(
      _mm512_add_epi64(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b)));
}

void StoreSums(__m256i sums, int which, int64_t block, const QuantizedRow& first) {
  const int64_t at = (3 * block + which) * kQuantizedTogether;
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(first.negative_sums + at),
                      _mm256_sub_epi32(_mm256_setzero_si256(), sums));
  _mm256_storeu_ps(first.float_sums + at, _mm256_cvtepi32_ps(sums));
}

/// A block of all tokens of a group; false if any of them is all zeros, or not finite.
bool QuantizeUsualBlock(const float* x, int64_t stride, int64_t block, const QuantizedRow& first) {
  __m512i largest[kQuantizedTogether];
  for (int t = 0; t < kQuantizedTogether; ++t) {
    const float* values = x + t * stride + block * kBlockColumns;
    largest[t] = _mm512_max_epu32(Magnitude(_mm512_loadu_ps(values)),
                                  Magnitude(_mm512_loadu_ps(values + 16)));
  }
  const __m256i magnitudes = LargestLanes(largest);
  // As in ScaleOfBlock.
  const __m256 amax = _mm256_castsi256_ps(magnitudes);
  const __m256 range = _mm256_set1_ps(127.0F);
  const __m256 inverses = _mm256_div_ps(range, amax);
  const __m256i infinity = _mm256_set1_epi32(0x7f800000);
  const __m256i larger = _mm256_max_epu32(magnitudes, _mm256_castps_si256(inverses));
  if (_mm256_cmplt_epu32_mask(larger, infinity) != 0xff) return false;
  _mm256_storeu_ps(first.scales + block * kQuantizedTogether, _mm256_div_ps(amax, range));

  alignas(32) float inverse[kQuantizedTogether];
  _mm256_store_ps(inverse, inverses);
  __m512i packed[kQuantizedTogether / 2];
  int8_t* out = first.codes + block * kQuantizedTogether * kBlockColumns;
  for (int pair = 0; pair < kQuantizedTogether / 2; ++pair) {
    __m512i codes[4];
    for (int i = 0; i < 4; ++i) {
      const int t = 2 * pair + i / 2;
      const float* values = x + t * stride + block * kBlockColumns + i % 2 * 16;
      codes[i] =
          _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(values), _mm512_set1_ps(inverse[t])));
    }
    packed[pair] = PackCodes(codes);
    _mm512_storeu_si512(out + pair * 2 * kBlockColumns, packed[pair]);
  }

  const __m256i low = SumsOfFour(packed[0], packed[1]);
  const __m256i high = SumsOfFour(packed[2], packed[3]);
  const __m256i firsts = _mm256_setr_epi32(0, 4, 1, 5, 8, 12, 9, 13);
  const __m256i seconds = _mm256_add_epi32(firsts, _mm256_set1_epi32(2));
  const __m256i bias = _mm256_set1_epi32(16 * 128);
  const __m256i first_sums = _mm256_sub_epi32(_mm256_permutex2var_epi32(low, firsts, high), bias);
  const __m256i second_sums = _mm256_sub_epi32(_mm256_permutex2var_epi32(low, seconds, high), bias);
  StoreSums(first_sums, 0, block, first);
  StoreSums(second_sums, 1, block, first);
  StoreSums(_mm256_add_epi32(first_sums, second_sums), 2, block, first);
  return true;
}

/// The row `token` of a group, from block `block` on.
QuantizedRow RowOf(const QuantizedRow& first, int token, int64_t block) {
  const int64_t cell = block * kQuantizedTogether;
  return {kQuantizedTogether, first.codes + (cell + token) * kBlockColumns,
          first.scales + cell + token, first.negative_sums + 3 * cell + token,
          first.float_sums + 3 * cell + token};
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

void QuantizeGroupAvx512(const float* x, int64_t stride, int64_t columns,
                         const QuantizedRow& first) {
  for (int64_t begin = 0; begin < columns; begin += kBlockColumns) {
    const int64_t block = begin / kBlockColumns;
    const int64_t count = columns - begin < kBlockColumns ? columns - begin : kBlockColumns;
    if (count == kBlockColumns && QuantizeUsualBlock(x, stride, block, first)) continue;
    for (int t = 0; t < kQuantizedTogether; ++t) {
      QuantizeAvx512(x + t * stride + begin, count, RowOf(first, t, block));
    }
  }
}

}  // namespace tandem::core
