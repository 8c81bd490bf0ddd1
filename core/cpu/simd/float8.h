#pragma once

#include <cstdint>
#include <cstring>

#include "core/cpu/simd/host_device.h"

/// The elements of a float8 cache, on CPUs and GPUs (numerics.md, rule 4). A vector is a scale and
/// codes. A code is E4M3: sign, 4 bits of exponent, 3 of mantissa; NaN but no infinities. Attention
/// reads a 256th of it, since that is the float16 whose lower exponent bits and upper mantissa bits
/// are the code's. So the largest is 448 / 256 = 1.75. Source: OCP 8-bit Floating Point
/// Specification 1.0.
namespace tandem::core {

enum class Float8 : uint8_t {};

struct Float8Scale {
  float scale = 0;    // what codes are multiplied with
  float inverse = 0;  // what values are multiplied with; 0: all codes are 0
};

inline constexpr float kLargestFloat8 = 1.75F;
inline constexpr auto kFloat8Nan = static_cast<Float8>(0x7f);

// Internal linkage, so that no code of a wider instruction set can be picked by the linker for use
// elsewhere.
namespace {

/// A 256th of a code, as float16. Where the code is NaN it is 1.875 with its sign: its scale is
/// NaN.
TANDEM_HOST_DEVICE inline __attribute__((always_inline)) uint16_t HalfOfFloat8(Float8 code) {
  const auto bits = static_cast<uint32_t>(code);
  return static_cast<uint16_t>((bits & 0x80) << 8 | (bits & 0x7f) << 7);
}

/// What orders floats by their magnitude, NaN above all.
TANDEM_HOST_DEVICE inline __attribute__((always_inline)) uint32_t MagnitudeBits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits & 0x7fffffff;
}

/// Of a vector with these MagnitudeBits at most: amax / 1.75, and 1.75 / amax. Both are 0 where
/// amax is 0 or too small to invert, and NaN where a value is not finite.
TANDEM_HOST_DEVICE inline __attribute__((always_inline)) Float8Scale ScaleOfFloat8(
    uint32_t magnitude) {
  constexpr uint32_t kInfinity = 0x7f800000;
  constexpr uint32_t kNan = 0x7fc00000;
  if (magnitude >= kInfinity) magnitude = kNan;
  float amax;
  std::memcpy(&amax, &magnitude, sizeof(amax));
  if (magnitude == kNan) return {amax, amax};
  if (magnitude == 0) return {};
  const float inverse = kLargestFloat8 / amax;
  if (MagnitudeBits(inverse) >= kInfinity) return {};
  return {amax / kLargestFloat8, inverse};
}

/// The code nearest to 256 x, the even one where two are. What is too large is the largest. Without
/// branches, so that compilers take several at once.
TANDEM_HOST_DEVICE inline __attribute__((always_inline)) Float8 ToFloat8(float x) {
  constexpr uint32_t kInfinity = 0x7f800000;
  constexpr uint32_t kLargest = 0x3fe00000;      // kLargestFloat8
  constexpr uint32_t kLeastNormal = 0x38800000;  // 2^-14
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const uint32_t magnitude = bits & 0x7fffffff;
  const uint32_t within = magnitude < kLargest ? magnitude : kLargest;
  const uint32_t exponent = (within & kInfinity) > kLeastNormal ? within & kInfinity : kLeastNormal;
  // A number whose last place is what the last bit of the mantissa is worth, 2^-3 of the exponent.
  const uint32_t grid_bits = exponent + (20U << 23U);
  float grid;
  float rounded;
  std::memcpy(&grid, &grid_bits, sizeof(grid));
  std::memcpy(&rounded, &within, sizeof(rounded));
  rounded += grid;
  const uint32_t steps = MagnitudeBits(rounded) - grid_bits;
  const uint32_t code = ((exponent - kLeastNormal) >> 20) + steps + (bits >> 24 & 0x80);
  const uint32_t nan = 0U - ((kInfinity - magnitude) >> 31);  // all ones where x is
  return static_cast<Float8>((code & ~nan) | (static_cast<uint32_t>(kFloat8Nan) & nan));
}

}  // namespace
}  // namespace tandem::core
