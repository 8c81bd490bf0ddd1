#include "parallel/schedule/step_cost.h"

#include <algorithm>

namespace tandem::parallel {
namespace {

constexpr double kDecay = 0.98;         // about the last fifty steps count
constexpr double kOutlier = 2.0;        // times what the line says: no more is believed
constexpr double kLeastVariance = 0.3;  // of the numbers of tokens, for a line through them
constexpr double kLeastWeight = 8;      // steps
constexpr double kLeastShare = 0.02, kMostShare = 0.9;

}  // namespace

void StepCost::Add(int32_t tokens, double seconds) {
  if (tokens < 1 || tokens > kMostTokens || seconds <= 0) return;
  const double n = tokens;
  if (weight_ > 0) {
    const double mean = tokens_ / weight_;
    const double line =
        seconds_ / weight_ * (1 - share_ + share_ * n) / (1 - share_ + share_ * mean);
    seconds = std::min(seconds, kOutlier * line);
  }
  weight_ = weight_ * kDecay + 1;
  tokens_ = tokens_ * kDecay + n;
  tokens_squared_ = tokens_squared_ * kDecay + n * n;
  seconds_ = seconds_ * kDecay + seconds;
  tokens_seconds_ = tokens_seconds_ * kDecay + n * seconds;

  const double mean = tokens_ / weight_;
  const double variance = tokens_squared_ / weight_ - mean * mean;
  if (weight_ < kLeastWeight || variance < kLeastVariance) return;
  const double slope = (tokens_seconds_ / weight_ - mean * seconds_ / weight_) / variance;
  const double one_token = seconds_ / weight_ - slope * (mean - 1);
  share_ = one_token > 0 ? std::clamp(slope / one_token, kLeastShare, kMostShare) : kMostShare;
}

double StepCost::Price(int32_t tokens) const {
  const double n = std::max(tokens, 1);
  return n * share_ / (1 - share_ + share_ * n);
}

}  // namespace tandem::parallel
