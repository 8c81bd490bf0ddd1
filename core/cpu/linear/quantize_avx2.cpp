#include <immintrin.h>

#include "core/cpu/linear/quantize_kernel.h"
#include "core/cpu/linear/quantize_scale.h"

namespace tandem::core {
namespace {

__m256i Magnitude(__m256 values) {
  return _mm256_and_si256(_mm256_castps_si256(values), _mm256_set1_epi32(0x7fffffff));
}

uint32_t LargestLane(__m256i v) {
  __m128i m = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
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

void QuantizeBlock(const float* values, int64_t block, const QuantizedRow& row) {
  __m256 v[4];
  for (int i = 0; i < 4; ++i) v[i] = _mm256_loadu_ps(values + 8 * i);
  const __m256i magnitude = _mm256_max_epu32(_mm256_max_epu32(Magnitude(v[0]), Magnitude(v[1])),
                                             _mm256_max_epu32(Magnitude(v[2]), Magnitude(v[3])));
  const BlockScale scale = ScaleOfBlock(LargestLane(magnitude));
  __m256i codes = _mm256_setzero_si256();
  if (scale.inverse != 0) {
    const __m256 inverse = _mm256_set1_ps(scale.inverse);
    __m256i q[4];
    for (int i = 0; i < 4; ++i) q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
    // Packing goes by halves of the register; the permutation puts the order right.
    codes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    codes = _mm256_permutevar8x32_epi32(codes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  }
  int8_t* out = row.codes + block * row.group_tokens * kBlockColumns;
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), codes);
  WriteScaleAndSums(scale.scale, SumOfBytes(_mm256_castsi256_si128(codes)),
                    SumOfBytes(_mm256_extracti128_si256(codes, 1)), block, row);
}

}  // namespace

void QuantizeAvx2(const float* x, int64_t columns, const QuantizedRow& row) {
  const int64_t whole = columns / kBlockColumns;
  for (int64_t b = 0; b < whole; ++b) QuantizeBlock(x + b * kBlockColumns, b, row);
  if (columns % kBlockColumns != 0) {
    float padded[kBlockColumns] = {};
    std::memcpy(padded, x + whole * kBlockColumns,
                static_cast<size_t>(columns % kBlockColumns) * sizeof(float));
    QuantizeBlock(padded, whole, row);
  }
}

}  // namespace tandem::core
