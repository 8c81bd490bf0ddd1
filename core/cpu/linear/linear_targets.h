// Where sums of linear_template.h go. Everything has internal linkage, as there.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "core/cpu/linear/linear_kernel.h"

namespace tandem::core {
namespace {

#define TANDEM_INLINE inline __attribute__((always_inline))
#define TANDEM_INLINE_LAMBDA __attribute__((always_inline))

/// Sums of some tiles' rows with some tokens.
template <class V, int kTiles, int kTokens>
struct Sums {
  typename V::Float of[kTiles][kTokens];

  TANDEM_INLINE Sums() {
#pragma GCC unroll 4
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma GCC unroll 16
      for (int t = 0; t < kTokens; ++t) of[tile][t] = V::FloatZero();
    }
  }
};

/// Steps of MultiplyBlock, after each of which it calls `between`: four columns of each half.
constexpr int kBlockSteps = 8;

/// Adds a partial sum (rule 3) in which some lanes may fail: those add nothing. Returns their bits.
template <class V>
__attribute__((noinline)) uint32_t AddFailedPartialSum(const float* partial, int64_t* sums) {
  uint32_t failed = 0;
  for (int row = 0; row < kTileRows; ++row) {
    if (partial[row] < kPartialSumLimit && partial[row] > -kPartialSumLimit) {
      sums[row] += _mm_cvtss_si64(_mm_set_ss(partial[row] * kPartialSumScale));
    } else {
      failed |= 1U << row;
    }
  }
  return failed;
}

/// Where sums of all columns go as floats.
template <class V, int kTiles, int kTokens>
class WholeSums {
 public:
  static constexpr bool kWaits = false;
  struct Memory {};

  TANDEM_INLINE WholeSums(const TileWork& work, Memory&) : work_(work) {}
  TANDEM_INLINE void Take(const Sums<V, kTiles, kTokens>& sums) const {
#pragma GCC unroll 4
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma GCC unroll 16
      for (int t = 0; t < kTokens; ++t) {
        V::Store(work_.out + t * work_.out_stride + tile * kTileRows, sums.of[tile][t]);
      }
    }
  }
  TANDEM_INLINE bool Finish() const { return true; }

 private:
  const TileWork& work_;
};

/// Sums of partial sums, as they come.
template <class V, int kTiles, int kTokens>
class PartialSumTotals {
 public:
  static constexpr int kPairs = kTiles * kTokens;
  static constexpr bool kWaits = V::kAddsPartialSumsBetweenProducts;
  struct Memory {};

  TANDEM_INLINE PartialSumTotals(const TileWork& work, Memory&) : work_(work) {
    for (int pair = 0; pair < kPairs; ++pair) {
      for (int row = 0; row < kTileRows; ++row) Target(pair)[row] = 0;
    }
  }

  /// Takes partial sums over, to be added later; those that fail at once. All before must be added.
  TANDEM_INLINE void Take(const Sums<V, kTiles, kTokens>& sums) {
    typename V::Int magnitude = V::Zero();
#pragma GCC unroll 32
    for (int pair = 0; pair < kPairs; ++pair) {
      waiting_.of[pair / kTokens][pair % kTokens] = sums.of[pair / kTokens][pair % kTokens];
      magnitude = V::LargerMagnitude(magnitude, sums.of[pair / kTokens][pair % kTokens]);
    }
    any_ = !V::ReachesPartialSumLimit(magnitude);
    if (any_) {
      if constexpr (!kWaits) Finish();
      return;
    }
#pragma GCC unroll 32
    for (int pair = 0; pair < kPairs; ++pair) {
      float partial[kTileRows];
      V::Store(partial, sums.of[pair / kTokens][pair % kTokens]);
      work_.failed_rows[pair] |= AddFailedPartialSum<V>(partial, Target(pair));
    }
  }

  TANDEM_INLINE bool any() const { return any_; }

  /// Adds those pairs that are due after a step of a block.
  TANDEM_INLINE void Add(int step) const {
    AddPairs(step * kPairs / kBlockSteps, (step + 1) * kPairs / kBlockSteps);
  }
  TANDEM_INLINE bool Finish() {
    if (any_) AddPairs(0, kPairs);
    any_ = false;
    return true;
  }

 private:
  TANDEM_INLINE int64_t* Target(int pair) const {
    return work_.partial_sums + pair % kTokens * work_.out_stride + pair / kTokens * kTileRows;
  }
  TANDEM_INLINE void AddPairs(int begin, int end) const {
#pragma GCC unroll 32
    for (int pair = begin; pair < end; ++pair) {
      V::AddPartialSum(waiting_.of[pair / kTokens][pair % kTokens], Target(pair));
    }
  }
  const TileWork& work_;
  Sums<V, kTiles, kTokens> waiting_;
  bool any_ = false;
};

/// Sums of partial sums below 2^13, in two 32-bit integers each: multiples of 2^-9, and the rest of
/// that in multiples of 2^-32. With the constants as `upper` and `lower`, the nearest multiple of
/// 2^-9 of a partial sum is
///
///     t = partial sum + upper,   whose bits are those of `upper` plus the number of multiples;
///     r = partial sum - (t - upper), exact, at most 2^-10 in magnitude;
///     r + lower, whose bits are those of `lower` plus r rounded to nearest even, in 2^-32.
///
/// Integers wrap around, so the constants' bits are taken off at the end, once. These are float
/// additions, which have units of their own beside those that multiply; conversions to int64 take
/// turns with products. Where a partial sum is larger, or not finite, t leaves upper's binade: then
/// nothing here counts, and the caller does it all again with PartialSumTotals.
template <class V, int kTiles, int kTokens>
class PartialSumHalves {
 public:
  static constexpr int kPairs = kTiles * kTokens;
  static constexpr bool kMayFail = true;
  static constexpr bool kWaits = true;
  /// The sums, which are many more than registers.
  struct Memory {
    alignas(64) int32_t upper[kPairs][kTileRows];
    alignas(64) int32_t lower[kPairs][kTileRows];
  };

  /// Whether sums of so many partial sums fit into the halves.
  static bool Fits(const TileWork& work) {
    constexpr int64_t kMostPartialSums = 511;  // of 2^22 multiples at most, in 31 bits
    return (work.columns + work.partial_columns - 1) / work.partial_columns <= kMostPartialSums;
  }

  TANDEM_INLINE PartialSumHalves(const TileWork& work, Memory& memory)
      : work_(work), memory_(&memory) {
    // Not to be seen through: else some sums get registers that products need more.
    asm("" : "+r"(memory_) : : "memory");
#pragma GCC unroll 32
    for (int pair = 0; pair < kPairs; ++pair) {
      V::StoreInt(memory_->upper[pair], V::Zero());
      V::StoreInt(memory_->lower[pair], V::Zero());
    }
  }

  TANDEM_INLINE void Take(const Sums<V, kTiles, kTokens>& sums) {
    waiting_ = sums;
    any_ = true;
    ++partials_;
  }

  TANDEM_INLINE bool any() const { return any_; }

  TANDEM_INLINE void Add(int step) {
    AddPairs(step * kPairs / kBlockSteps, (step + 1) * kPairs / kBlockSteps);
  }

  /// Writes the sums, if none of the partial sums was too large.
  TANDEM_INLINE bool Finish() {
    if (any_) AddPairs(0, kPairs);
    if (V::LeavesBinade(seen_)) return false;
#pragma GCC unroll 32
    for (int pair = 0; pair < kPairs; ++pair) {
      V::StoreHalves(
          memory_->upper[pair], memory_->lower[pair], partials_,
          work_.partial_sums + pair % kTokens * work_.out_stride + pair / kTokens * kTileRows);
    }
    return true;
  }

 private:
  TANDEM_INLINE void AddPairs(int begin, int end) {
#pragma GCC unroll 32
    for (int pair = begin; pair < end; ++pair) {
      V::AddHalves(waiting_.of[pair / kTokens][pair % kTokens], memory_->upper[pair],
                   memory_->lower[pair], seen_);
    }
  }

  const TileWork& work_;
  Memory* memory_;
  Sums<V, kTiles, kTokens> waiting_;
  typename V::Int seen_ = V::Zero();  // bits in which any t differed from `upper`
  int32_t partials_ = 0;
  bool any_ = false;
};

}  // namespace
}  // namespace tandem::core
