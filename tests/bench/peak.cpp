#include "peak.h"

#include <immintrin.h>

namespace tandem::bench {

int64_t SumBytes(const std::byte* data, int64_t bytes) {
  __m256i sums[8] = {};
  for (int64_t at = 0; at < bytes; at += 256) {
    for (int i = 0; i < 8; ++i) {
      const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data + at + 32 * i));
      sums[i] = _mm256_add_epi64(sums[i], v);
    }
  }
  for (int i = 1; i < 8; ++i) sums[0] = _mm256_add_epi64(sums[0], sums[i]);
  return _mm256_extract_epi64(sums[0], 0) + _mm256_extract_epi64(sums[0], 1) +
         _mm256_extract_epi64(sums[0], 2) + _mm256_extract_epi64(sums[0], 3);
}

}  // namespace tandem::bench
