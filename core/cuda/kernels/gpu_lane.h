#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/cpu/simd/host_device.h"
#include "core/cpu/simd/lanes_math.h"
#include "core/model/config.h"

namespace tandem::core {

/// One float of a thread, as the lane type of core/cpu/simd/lanes_math.h: what the lanes of
/// core/cpu/simd/lanes.h do sixteen times.
struct GpuLane {
  float v;

  static TANDEM_HOST_DEVICE uint32_t Bits(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    return bits;
  }
  static TANDEM_HOST_DEVICE float FromBits(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof(x));
    return x;
  }

  static TANDEM_HOST_DEVICE GpuLane Set(float x) { return {x}; }
  friend TANDEM_HOST_DEVICE GpuLane operator+(GpuLane a, GpuLane b) { return {a.v + b.v}; }
  friend TANDEM_HOST_DEVICE GpuLane operator-(GpuLane a, GpuLane b) { return {a.v - b.v}; }
  friend TANDEM_HOST_DEVICE GpuLane operator*(GpuLane a, GpuLane b) { return {a.v * b.v}; }
  friend TANDEM_HOST_DEVICE GpuLane operator/(GpuLane a, GpuLane b) { return {a.v / b.v}; }
  /// a * b + c, rounded once.
  static TANDEM_HOST_DEVICE GpuLane Fma(GpuLane a, GpuLane b, GpuLane c) {
    return {fmaf(a.v, b.v, c.v)};
  }
  /// c - a * b, rounded once.
  static TANDEM_HOST_DEVICE GpuLane NegFma(GpuLane a, GpuLane b, GpuLane c) {
    return {fmaf(-a.v, b.v, c.v)};
  }
  static TANDEM_HOST_DEVICE GpuLane Max(GpuLane a, GpuLane b) { return {a.v > b.v ? a.v : b.v}; }
  static TANDEM_HOST_DEVICE GpuLane Min(GpuLane a, GpuLane b) { return {a.v < b.v ? a.v : b.v}; }
  static TANDEM_HOST_DEVICE GpuLane Abs(GpuLane a) { return {FromBits(Bits(a.v) & 0x7fffffffU)}; }
  /// The magnitude of a (not negative) with the sign of b.
  static TANDEM_HOST_DEVICE GpuLane WithSign(GpuLane a, GpuLane b) {
    return {FromBits(Bits(a.v) | (Bits(b.v) & 0x80000000U))};
  }
  /// a < b ? x : y.
  static TANDEM_HOST_DEVICE GpuLane SelectLess(GpuLane a, GpuLane b, GpuLane x, GpuLane y) {
    return {a.v < b.v ? x.v : y.v};
  }
  /// Adds the low nine bits of `steps`, read as an integer, to the exponent of a.
  static TANDEM_HOST_DEVICE GpuLane AddExponent(GpuLane a, GpuLane steps) {
    return {FromBits(Bits(a.v) + (Bits(steps.v) << 23))};
  }
};

/// activation(gate) * up
TANDEM_HOST_DEVICE inline float Activate(Activation kind, float gate, float up) {
  const GpuLane g = GpuLane::Set(gate);
  const GpuLane u = GpuLane::Set(up);
  switch (kind) {
    case Activation::kSilu:
      return LanesSilu(g, u).v;
    case Activation::kGeluTanh:
      return LanesGeluTanh(g, u).v;
    case Activation::kGelu:
      return (LanesGelu(g) * u).v;
  }
  return 0.0F;
}

}  // namespace tandem::core
