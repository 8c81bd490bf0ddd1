#pragma once

#include <cstdint>

#include "core/cpu/simd/lanes.h"
#include "core/cpu/simd/lanes_math.h"
#include "core/model/config.h"

/// Private to elementwise*.cpp: the functions of elementwise.h as templates over the lane type.
namespace tandem::core {

struct ElementwiseKernels {
  void (*rms_norm)(const float* x, const float* weight, int64_t n, float epsilon, float* out);
  void (*layer_norm)(const float* x, const float* weight, int64_t n, float epsilon, float* out);
  void (*scale_and_shift)(float* x, const float* scale, const float* shift, int64_t n);
  void (*silu)(const float* gate, const float* up, int64_t n, float* out);
  void (*gelu_tanh)(const float* gate, const float* up, int64_t n, float* out);
  void (*gelu)(const float* gate, const float* up, int64_t n, float* out);
  void (*activate)(Activation kind, float* x, int64_t n);
  void (*add)(const float* x, const float* y, int64_t n, float* out);
  void (*partial_sums)(const int64_t* sums, const float* bias, int64_t n, float* out);
  void (*rotate_pairs)(const float* cosines, const float* sines, int64_t pairs, float* x);
  void (*rotate_halves)(const float* cosines, const float* sines, int64_t pairs, float* x);
};

extern const ElementwiseKernels kElementwiseAvx512;

template <typename Lanes>
struct ElementwiseOf {
  /// out[i] = function(a[i], b[i]).
  template <typename Function>
  static void Map(const float* a, const float* b, int64_t n, float* out, Function function) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      function(Lanes::Load(a + i), Lanes::Load(b + i)).Store(out + i);
    }
    const int rest = static_cast<int>(n - i);
    if (rest > 0) {
      function(Lanes::LoadPart(a + i, rest), Lanes::LoadPart(b + i, rest)).StorePart(out + i, rest);
    }
  }

  static void RmsNorm(const float* x, const float* weight, int64_t n, float epsilon, float* out) {
    Lanes squares = Lanes::Set(0.0F);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      const Lanes v = Lanes::Load(x + i);
      squares = Lanes::Fma(v, v, squares);
    }
    if (i < n) {
      const Lanes v = Lanes::LoadPart(x + i, static_cast<int>(n - i));
      squares = Lanes::Fma(v, v, squares);
    }
    const float mean = Lanes::FoldSum(squares) / static_cast<float>(n);
    const Lanes scale = Lanes::Set(1.0F / __builtin_sqrtf(mean + epsilon));
    Map(x, weight, n, out, [scale](Lanes v, Lanes w) { return (v * scale) * w; });
  }

  static void LayerNorm(const float* x, const float* weight, int64_t n, float epsilon, float* out) {
    const auto fold = [&](auto term) {
      Lanes sum = Lanes::Set(0.0F);
      int64_t i = 0;
      for (; i + kLanes <= n; i += kLanes) sum = term(Lanes::Load(x + i), kLanes, sum);
      const int rest = static_cast<int>(n - i);
      if (rest > 0) sum = term(Lanes::LoadPart(x + i, rest), rest, sum);
      return Lanes::FoldSum(sum) / static_cast<float>(n);
    };
    const Lanes mean = Lanes::Set(fold([](Lanes v, int, Lanes sum) { return sum + v; }));
    const float variance = fold([mean](Lanes v, int count, Lanes sum) {
      const Lanes d = Lanes::KeepRange(v - mean, 0, count, 0.0F);
      return Lanes::Fma(d, d, sum);
    });
    const Lanes scale = Lanes::Set(1.0F / __builtin_sqrtf(variance + epsilon));
    Map(x, weight, n, out, [mean, scale](Lanes v, Lanes w) { return ((v - mean) * scale) * w; });
  }

  static void ScaleAndShift(float* x, const float* scale, const float* shift, int64_t n) {
    for (int64_t i = 0; i < n; i += kLanes) {
      const int count = n - i < kLanes ? static_cast<int>(n - i) : kLanes;
      Lanes::Fma(Lanes::LoadPart(x + i, count), Lanes::LoadPart(scale + i, count),
                 Lanes::LoadPart(shift + i, count))
          .StorePart(x + i, count);
    }
  }

  static void Silu(const float* gate, const float* up, int64_t n, float* out) {
    Map(gate, up, n, out, [](Lanes g, Lanes u) { return LanesSilu(g, u); });
  }

  static void GeluTanh(const float* gate, const float* up, int64_t n, float* out) {
    Map(gate, up, n, out, [](Lanes g, Lanes u) { return LanesGeluTanh(g, u); });
  }

  static void Gelu(const float* gate, const float* up, int64_t n, float* out) {
    Map(gate, up, n, out, [](Lanes g, Lanes u) { return LanesGelu(g) * u; });
  }

  static void Activate(Activation kind, float* x, int64_t n) {
    const auto each = [&](auto function) {
      Map(x, x, n, x, [&](Lanes v, Lanes) { return function(v); });
    };
    switch (kind) {
      case Activation::kSilu:
        return each([](Lanes v) { return LanesSilu(v, Lanes::Set(1.0F)); });
      case Activation::kGeluTanh:
        return each([](Lanes v) { return LanesGeluTanh(v, Lanes::Set(1.0F)); });
      case Activation::kGelu:
        return each([](Lanes v) { return LanesGelu(v); });
    }
  }

  static void Add(const float* x, const float* y, int64_t n, float* out) {
    Map(x, y, n, out, [](Lanes a, Lanes b) { return a + b; });
  }

  static void PartialSums(const int64_t* sums, const float* bias, int64_t n, float* out) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) Lanes::LoadFixed(sums + i).Store(out + i);
    for (; i < n; ++i) out[i] = static_cast<float>(sums[i]) * 0x1p-32F;
    if (bias != nullptr) Add(out, bias, n, out);
  }

  static void RotatePairs(const float* cosines, const float* sines, int64_t pairs, float* x) {
    for (int64_t i = 0; i < pairs; i += kLanes) {
      const int count = pairs - i < kLanes ? static_cast<int>(pairs - i) : kLanes;
      float* from = x + 2 * i;
      float padded[2 * kLanes];
      if (count < kLanes) {
        for (int j = 0; j < 2 * kLanes; ++j) padded[j] = j < 2 * count ? from[j] : 0.0F;
      }
      Lanes a, b;
      Lanes::LoadPairs(count < kLanes ? padded : from, a, b);
      LanesRotate(Lanes::LoadPart(cosines + i, count), Lanes::LoadPart(sines + i, count), a, b);
      Lanes::StorePairs(count < kLanes ? padded : from, a, b);
      if (count < kLanes) {
        for (int j = 0; j < 2 * count; ++j) from[j] = padded[j];
      }
    }
  }

  static void RotateHalves(const float* cosines, const float* sines, int64_t pairs, float* x) {
    for (int64_t i = 0; i < pairs; i += kLanes) {
      const int count = pairs - i < kLanes ? static_cast<int>(pairs - i) : kLanes;
      Lanes a = Lanes::LoadPart(x + i, count);
      Lanes b = Lanes::LoadPart(x + pairs + i, count);
      LanesRotate(Lanes::LoadPart(cosines + i, count), Lanes::LoadPart(sines + i, count), a, b);
      a.StorePart(x + i, count);
      b.StorePart(x + pairs + i, count);
    }
  }

  static constexpr ElementwiseKernels kTable = {RmsNorm,     LayerNorm,   ScaleAndShift, Silu,
                                                GeluTanh,    Gelu,        Activate,      Add,
                                                PartialSums, RotatePairs, RotateHalves};
};

}  // namespace tandem::core
