#pragma once

#include <immintrin.h>

#include <bit>
#include <cstdint>

/// Conversions between float32 and the 16-bit formats. F16C everywhere, so that all processors
/// round alike (numerics.md, rule 5).
namespace tandem::core {

inline float HalfToFloat(uint16_t half) { return _cvtsh_ss(half); }
inline uint16_t FloatToHalf(float value) { return _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT); }
inline float Bfloat16ToFloat(uint16_t value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value) << 16);
}

}  // namespace tandem::core
