#include "core/base/phase_times.h"

#include <chrono>
#include <numeric>
#include <utility>

namespace tandem::core {

std::string_view PhaseName(Phase phase) {
  switch (phase) {
    case Phase::kAttention:
      return "attention";
    case Phase::kFeedForward:
      return "feed-forward";
    case Phase::kVocabulary:
      return "vocabulary";
    case Phase::kAllReduce:
      return "all-reduce";
    case Phase::kSampling:
      return "sampling";
    case Phase::kIdle:
      return "idle";
  }
  return "unknown";
}

int64_t PhaseTimes::total_nanoseconds() const {
  return std::accumulate(nanoseconds.begin(), nanoseconds.end(), int64_t{0});
}

PhaseTimes& PhaseTimes::operator+=(const PhaseTimes& other) {
  for (size_t i = 0; i < kPhases; ++i) nanoseconds[i] += other.nanoseconds[i];
  product_nanoseconds += other.product_nanoseconds;
  steps += other.steps;
  tokens += other.tokens;
  return *this;
}

PhaseClock::PhaseClock()
    : PhaseClock([] {
        const auto now = std::chrono::steady_clock::now().time_since_epoch();
        return int64_t{std::chrono::duration_cast<std::chrono::nanoseconds>(now).count()};
      }) {}

void PhaseClock::BeginStep(int64_t decoding, int64_t tokens) {
  const bool first = current_ == nullptr;
  current_ = &steps_[decoding];
  ++current_->steps;
  current_->tokens += tokens;
  if (first) {
    last_ = now_();
  } else {
    activity_ = {.phase = Phase::kIdle};
    Switch({});
  }
}

PhaseTimes PhaseClock::Steps(int64_t decoding) const {
  const auto found = steps_.find(decoding);
  return found == steps_.end() ? PhaseTimes{} : found->second;
}

PhaseClock::Activity PhaseClock::Switch(Activity next) {
  const int64_t now = now_();
  const int64_t passed = now - last_;
  last_ = now;
  if (current_ != nullptr) {
    (*current_)[activity_.phase] += passed;
    if (activity_.product) current_->product_nanoseconds += passed;
  }
  return std::exchange(activity_, next);
}

}  // namespace tandem::core
