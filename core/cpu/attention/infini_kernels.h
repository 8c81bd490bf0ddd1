#pragma once

#include <cstdint>

#include "core/base/isa.h"
#include "core/cpu/simd/lanes.h"
#include "core/cpu/simd/lanes_math.h"

/// Private to infini_*.cpp and segment_keys.cpp: the functions of infini_memory.h as templates over
/// the lane type.
namespace tandem::core {

struct InfiniKernels {
  /// out[i] = s(x[i]). [n]
  void (*features)(const float* x, int64_t n, float* out);
  /// out = what the memory says of a vector whose features are features[i * stride]. [n]
  void (*read)(const float* features, int64_t stride, const float* memory, const float* normalizer,
               int64_t n, float* out);
  /// memory[i][j] = the fma chain over t ascending of features[i * 64 + t] * values[t * n + j] from
  /// memory[i][j]. One page: features [n, 64], values [64, n]
  void (*add_page)(const float* features, const float* values, int64_t n, float* memory);
  /// normalizer[i] = normalizer[i] + features[i * 64 + t], t ascending.
  void (*add_features)(const float* features, int64_t n, float* normalizer);
  /// out[i] = x[i] - y[i]. [n]
  void (*subtract)(const float* x, const float* y, int64_t n, float* out);
  /// attended = fma(gate, remembered, (1 - gate) * attended). [n]
  void (*mix)(float gate, const float* remembered, int64_t n, float* attended);
  /// Rotates the pairs (a[i], b[i]). [64]
  void (*rotate)(const float* cosines, const float* sines, float* a, float* b);
};
extern const InfiniKernels kInfiniAvx512;

template <typename Lanes>
struct InfiniOf {
  static constexpr int kPage = 64;

  static int Count(int64_t left) { return left < kLanes ? static_cast<int>(left) : kLanes; }

  static void Features(const float* x, int64_t n, float* out) {
    const Lanes one = Lanes::Set(1.0F);
    for (int64_t i = 0; i < n; i += kLanes) {
      const int count = Count(n - i);
      const Lanes v = Lanes::LoadPart(x + i, count);
      Lanes::SelectLess(Lanes::Set(0.0F), v, v + one, LanesExp(v)).StorePart(out + i, count);
    }
  }

  static void Read(const float* features, int64_t stride, const float* memory,
                   const float* normalizer, int64_t n, float* out) {
    float divisor = 0.0F;
    for (int64_t i = 0; i < n; ++i) {
      divisor = __builtin_fmaf(features[i * stride], normalizer[i], divisor);
    }
    if (divisor == 0.0F) {
      for (int64_t j = 0; j < n; ++j) out[j] = 0.0F;
      return;
    }
    constexpr int kSets = 4;
    int64_t j = 0;
    for (; j + kSets * kLanes <= n; j += kSets * kLanes) {
      Lanes sums[kSets];
      for (Lanes& sum : sums) sum = Lanes::Set(0.0F);
      for (int64_t i = 0; i < n; ++i) {
        const Lanes feature = Lanes::Set(features[i * stride]);
        for (int s = 0; s < kSets; ++s) {
          sums[s] = Lanes::Fma(feature, Lanes::Load(memory + i * n + j + s * kLanes), sums[s]);
        }
      }
      for (int s = 0; s < kSets; ++s) (sums[s] / Lanes::Set(divisor)).Store(out + j + s * kLanes);
    }
    for (; j < n; j += kLanes) {
      const int count = Count(n - j);
      Lanes sum = Lanes::Set(0.0F);
      for (int64_t i = 0; i < n; ++i) {
        sum = Lanes::Fma(Lanes::Set(features[i * stride]),
                         Lanes::LoadPart(memory + i * n + j, count), sum);
      }
      (sum / Lanes::Set(divisor)).StorePart(out + j, count);
    }
  }

  /// kRows rows of the memory, 16 columns.
  template <int kRows>
  static void AddRows(const float* features, const float* values, int64_t n, int count,
                      float* memory) {
    Lanes sums[kRows];
    for (int r = 0; r < kRows; ++r) sums[r] = Lanes::LoadPart(memory + r * n, count);
    for (int t = 0; t < kPage; ++t) {
      const Lanes value = Lanes::LoadPart(values + t * n, count);
      for (int r = 0; r < kRows; ++r) {
        sums[r] = Lanes::Fma(Lanes::Set(features[r * kPage + t]), value, sums[r]);
      }
    }
    for (int r = 0; r < kRows; ++r) sums[r].StorePart(memory + r * n, count);
  }

  static void AddPage(const float* features, const float* values, int64_t n, float* memory) {
    constexpr int kRows = 8;
    for (int64_t j = 0; j < n; j += kLanes) {
      const int count = Count(n - j);
      int64_t i = 0;
      for (; i + kRows <= n; i += kRows) {
        AddRows<kRows>(features + i * kPage, values + j, n, count, memory + i * n + j);
      }
      for (; i < n; ++i) {
        AddRows<1>(features + i * kPage, values + j, n, count, memory + i * n + j);
      }
    }
  }

  static void AddFeatures(const float* features, int64_t n, float* normalizer) {
    for (int64_t i = 0; i < n; ++i) {
      for (int t = 0; t < kPage; ++t) normalizer[i] += features[i * kPage + t];
    }
  }

  static void Subtract(const float* x, const float* y, int64_t n, float* out) {
    for (int64_t i = 0; i < n; i += kLanes) {
      const int count = Count(n - i);
      (Lanes::LoadPart(x + i, count) - Lanes::LoadPart(y + i, count)).StorePart(out + i, count);
    }
  }

  static void Mix(float gate, const float* remembered, int64_t n, float* attended) {
    const Lanes g = Lanes::Set(gate);
    const Lanes rest = Lanes::Set(1.0F - gate);
    for (int64_t i = 0; i < n; i += kLanes) {
      const int count = Count(n - i);
      Lanes::Fma(g, Lanes::LoadPart(remembered + i, count),
                 rest * Lanes::LoadPart(attended + i, count))
          .StorePart(attended + i, count);
    }
  }

  static void RotateRows(const float* cosines, const float* sines, float* a, float* b) {
    for (int i = 0; i < kPage; i += kLanes) {
      Lanes x = Lanes::Load(a + i);
      Lanes y = Lanes::Load(b + i);
      LanesRotate(Lanes::Load(cosines + i), Lanes::Load(sines + i), x, y);
      x.Store(a + i);
      y.Store(b + i);
    }
  }

  static constexpr InfiniKernels kTable = {Features, Read, AddPage,   AddFeatures,
                                           Subtract, Mix,  RotateRows};
};

const InfiniKernels& InfiniKernelsOf(Isa isa);

}  // namespace tandem::core
