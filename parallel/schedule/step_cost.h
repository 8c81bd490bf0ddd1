#pragma once

#include <cstdint>

namespace tandem::parallel {

/// What one token more costs in a step, learnt from how long steps took.
///
/// It is a line through (tokens, seconds) of the steps so far; older ones count less. A step of
/// decoding reads all weights however few tokens it has, so the line begins far above zero.
/// Thread safety: none.
class StepCost {
 public:
  static constexpr int32_t kMostTokens = 48;  // longer steps say nothing about short ones

  /// A step of so many tokens took so long.
  void Add(int32_t tokens, double seconds);

  /// The cost of one token more in a step of `tokens`, as a part of what each token of that step
  /// costs: near 0 where it is free, near 1 where time grows with the number of tokens.
  double Price(int32_t tokens) const;

 private:
  // Where nothing is known: seen with SmolLM2 135M on two cores. Large models are cheaper.
  double share_ = 0.3;  // of a step of one token that its token costs
  // Sums over steps, each step's weight falling by a constant factor with each later one.
  double weight_ = 0;
  double tokens_ = 0;
  double tokens_squared_ = 0;
  double seconds_ = 0;
  double tokens_seconds_ = 0;
};

}  // namespace tandem::parallel
