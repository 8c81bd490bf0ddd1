#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

/// Pieces of eight or sixteen rows turned so that a register holds one piece of each row: how the
/// packers of tiles bring rows into lanes.
namespace tandem::core {

/// Eight 32-bit pieces of eight rows: on return v[i] holds piece i of rows 0 to 7, where v[r] held
/// the pieces of row r.
inline void Transpose8x8(__m256i (&v)[8]) {
  __m256i pair[8];
  for (int i = 0; i < 8; i += 2) {
    pair[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
    pair[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
  }
  __m256i four[8];
  for (int i = 0; i < 8; i += 4) {
    for (int k = 0; k < 2; ++k) {
      four[i + 2 * k] = _mm256_unpacklo_epi64(pair[i + k], pair[i + k + 2]);
      four[i + 2 * k + 1] = _mm256_unpackhi_epi64(pair[i + k], pair[i + k + 2]);
    }
  }
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm256_permute2x128_si256(four[i], four[i + 4], 0x20);
    v[i + 4] = _mm256_permute2x128_si256(four[i], four[i + 4], 0x31);
  }
}

/// 32 bytes at `offset` of each of eight rows, as eight pieces of 4 bytes.
inline void LoadPieces(const std::byte* const* rows, int64_t offset, __m256i (&pieces)[8]) {
  for (int r = 0; r < 8; ++r) {
    pieces[r] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[r] + offset));
  }
  Transpose8x8(pieces);
}

/// 16 bytes at `offset` of each of eight rows, as four pieces of 4 bytes.
inline void LoadPieces(const std::byte* const* rows, int64_t offset, __m256i (&pieces)[4]) {
  __m256i v[4];
  for (int r = 0; r < 4; ++r) {
    v[r] = _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[r] + offset))),
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[r + 4] + offset)), 1);
  }
  const __m256i low01 = _mm256_unpacklo_epi32(v[0], v[1]);
  const __m256i high01 = _mm256_unpackhi_epi32(v[0], v[1]);
  const __m256i low23 = _mm256_unpacklo_epi32(v[2], v[3]);
  const __m256i high23 = _mm256_unpackhi_epi32(v[2], v[3]);
  pieces[0] = _mm256_unpacklo_epi64(low01, low23);
  pieces[1] = _mm256_unpackhi_epi64(low01, low23);
  pieces[2] = _mm256_unpacklo_epi64(high01, high23);
  pieces[3] = _mm256_unpackhi_epi64(high01, high23);
}

/// Eight 16-bit pieces of eight rows: on return v[i] holds piece i of rows 0 to 7.
inline void Transpose8x8(__m128i (&v)[8]) {
  __m128i pair[8];
  for (int i = 0; i < 4; ++i) {
    pair[2 * i] = _mm_unpacklo_epi16(v[i], v[i + 4]);
    pair[2 * i + 1] = _mm_unpackhi_epi16(v[i], v[i + 4]);
  }
  // Three rounds of interleaving the first half with the second turn an index of 3 + 3 bits around.
  for (int round = 0; round < 2; ++round) {
    __m128i next[8];
    for (int i = 0; i < 4; ++i) {
      next[2 * i] = _mm_unpacklo_epi16(pair[i], pair[i + 4]);
      next[2 * i + 1] = _mm_unpackhi_epi16(pair[i], pair[i + 4]);
    }
    for (int i = 0; i < 8; ++i) pair[i] = next[i];
  }
  for (int i = 0; i < 8; ++i) v[i] = pair[i];
}

/// The four bytes of every lane, by byte: on return 32-bit element b of the low half holds byte b
/// of lanes 0 to 3, and of the high half that of lanes 4 to 7.
inline __m256i BytesOfLanes(__m256i lanes) {
  const __m256i order = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  return _mm256_shuffle_epi8(lanes, order);
}

/// Low 16 bits of eight lanes.
inline __m128i HalvesOfLanes(__m256i lanes) {
  const __m256i low = _mm256_and_si256(lanes, _mm256_set1_epi32(0xffff));
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0b1000));
}

}  // namespace tandem::core
