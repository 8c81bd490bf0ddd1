#pragma once

#include "core/base/float_convert.h"

/// A stand-in for NVIDIA's header of this name; see cuda_runtime.h.

// NOLINTBEGIN: NVIDIA's names
struct __half {
  uint16_t bits;
};

inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline unsigned short __half_as_ushort(__half value) { return value.bits; }
inline float __half2float(__half value) { return tandem::core::HalfToFloat(value.bits); }
inline __half __float2half_rn(float value) { return {tandem::core::FloatToHalf(value)}; }
// NOLINTEND
