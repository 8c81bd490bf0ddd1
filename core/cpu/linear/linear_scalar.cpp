#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/base/float_convert.h"
#include "core/cpu/linear/linear_template.h"

namespace tandem::core {
namespace {

/// 16 lanes as plain loops.
struct Scalar {
  static constexpr bool kReducesBy128 = false;
  static constexpr bool kLoadsInProducts = false;
  static constexpr bool kAddsPartialSumsBetweenProducts = false;
  template <DType kDtype, int kTokens>
  static constexpr bool kPartialSumsInHalves = false;
  struct Int {
    uint32_t lane[kTileRows];
  };
  struct Float {
    float lane[kTileRows];
  };
  using Codes = uint32_t;

  template <DType kDtype>
  static void AddKernels(TileKernels& kernels) {
    AddKernel<Scalar, kDtype, 1, 2>(kernels);
    AddKernel<Scalar, kDtype, 1, 1>(kernels);
  }

  template <typename Function>
  static Int MapInt(Function function) {
    Int result;
    for (int row = 0; row < kTileRows; ++row) result.lane[row] = function(row);
    return result;
  }
  template <typename Function>
  static Float MapFloat(Function function) {
    Float result;
    for (int row = 0; row < kTileRows; ++row) result.lane[row] = function(row);
    return result;
  }

  static Int Zero() { return {}; }
  static Float FloatZero() { return {}; }
  static Int Load(const std::byte* at) {
    Int result;
    std::memcpy(result.lane, at, sizeof(result.lane));
    return result;
  }
  static Int ShiftRight(const Int& v, int bits) { return Shift(v, -bits); }
  /// To the left where bits is positive.
  static Int Shift(const Int& v, int bits) {
    return MapInt([&](int row) { return bits >= 0 ? v.lane[row] << bits : v.lane[row] >> -bits; });
  }
  static Int And(const Int& v, uint32_t mask) {
    return MapInt([&](int row) { return v.lane[row] & mask; });
  }
  static Int Or(const Int& v, const Int& w) {
    return MapInt([&](int row) { return v.lane[row] | w.lane[row]; });
  }
  static Codes LoadActivations(const int8_t* codes) {
    Codes four;
    std::memcpy(&four, codes, sizeof(four));
    return four;
  }
  static Int Dot(const Int& acc, const Int& w, uint32_t activations) {
    return MapInt([&](int row) {
      auto sum = static_cast<int32_t>(acc.lane[row]);
      for (int k = 0; k < 32; k += 8) {
        sum += static_cast<int32_t>((w.lane[row] >> k) & 0xff) *
               static_cast<int8_t>((activations >> k) & 0xff);
      }
      return static_cast<uint32_t>(sum);
    });
  }
  template <int kBits>
  struct Products {
    Int sum;
    void Begin(const Int& from) { sum = from; }
    void Add(const Int& w, Codes a) { sum = Dot(sum, w, a); }
    Int Total() const { return sum; }
  };
  template <int kShift>
  static Int StartDot(const int32_t* n) {
    return MapInt([&](int) { return static_cast<uint32_t>(*n) << kShift; });
  }
  static Float ToFloat(const Int& v) {
    return MapFloat([&](int row) { return static_cast<float>(static_cast<int32_t>(v.lane[row])); });
  }
  static Float Broadcast(float value) {
    return MapFloat([&](int) { return value; });
  }
  static Float LoadF32(const std::byte* at) {
    Float result;
    std::memcpy(result.lane, at, sizeof(result.lane));
    return result;
  }
  static Float LoadF16(const std::byte* at) {
    uint16_t halves[kTileRows];
    std::memcpy(halves, at, sizeof(halves));
    return MapFloat([&](int row) { return HalfToFloat(halves[row]); });
  }
  static Float LoadBF16(const std::byte* at) {
    uint16_t halves[kTileRows];
    std::memcpy(halves, at, sizeof(halves));
    return MapFloat([&](int row) { return Bfloat16ToFloat(halves[row]); });
  }
  static Int LoadInt8(const std::byte* at) {
    return MapInt([&](int row) { return static_cast<uint32_t>(static_cast<int8_t>(at[row])); });
  }
  static Int LowNibbles(const std::byte* at) {
    return MapInt([&](int row) { return static_cast<uint32_t>(at[row]) & 15; });
  }
  static Int HighNibbles(const std::byte* at) {
    return MapInt([&](int row) { return static_cast<uint32_t>(at[row]) >> 4; });
  }
  static Float Multiply(const Float& a, const Float& b) {
    return MapFloat([&](int row) { return a.lane[row] * b.lane[row]; });
  }
  static Float Fma(const Float& a, const Float& b, const Float& c) {
    return MapFloat([&](int row) { return std::fma(a.lane[row], b.lane[row], c.lane[row]); });
  }
  static void Store(float* at, const Float& v) { std::memcpy(at, v.lane, sizeof(v.lane)); }
  static Int LargerMagnitude(const Int& m, const Float& v) {
    return MapInt([&](int row) {
      const uint32_t magnitude = std::bit_cast<uint32_t>(v.lane[row]) & 0x7fffffff;
      return std::max(m.lane[row], magnitude);
    });
  }
  static bool ReachesPartialSumLimit(const Int& m) {
    return std::any_of(m.lane, m.lane + kTileRows,
                       [](uint32_t magnitude) { return magnitude >= kPartialSumLimitBits; });
  }
  static void AddPartialSum(const Float& v, int64_t* sums) {
    for (int row = 0; row < kTileRows; ++row) {
      sums[row] += _mm_cvtss_si64(_mm_set_ss(v.lane[row] * kPartialSumScale));
    }
  }
};

}  // namespace

TileKernels ScalarKernels(DType dtype) { return KernelsOf<Scalar>(dtype); }

}  // namespace tandem::core
