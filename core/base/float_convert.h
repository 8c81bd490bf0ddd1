#pragma once

#include <immintrin.h>

#include <bit>
#include <cstdint>

/// Conversions between float32 and the 16-bit formats. F16C everywhere, so that all processors
/// round alike (numerics.md, rule 5).
namespace tandem::core {

inline float HalfToFloat(uint16_t half) { return _cvtsh_ss(half); }
inline uint16_t FloatToHalf(float value) {
  // clang's _cvtss_sh is not standard C++.
  const __m128i half = _mm_cvtps_ph(_mm_set_ss(value), _MM_FROUND_TO_NEAREST_INT);
  return static_cast<uint16_t>(_mm_extract_epi16(half, 0));
}
inline float Bfloat16ToFloat(uint16_t value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value) << 16);
}

}  // namespace tandem::core
