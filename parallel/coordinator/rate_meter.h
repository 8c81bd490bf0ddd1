#pragma once

#include <chrono>
#include <cstdint>
#include <deque>

namespace tandem::parallel {

/// Events per second over the last ten seconds. Thread safety: none.
class RateMeter {
 public:
  using Time = std::chrono::steady_clock::time_point;

  void Add(Time now, uint64_t events) {
    if (events == 0) return;
    if (samples_.empty() || now - samples_.back().time > kGrain) {
      samples_.push_back({now, events});
    } else {
      samples_.back().events += events;
    }
    DropOld(now);
  }

  double PerSecond(Time now) {
    DropOld(now);
    uint64_t events = 0;
    for (const Sample& sample : samples_) events += sample.events;
    return static_cast<double>(events) / std::chrono::duration<double>(kSpan).count();
  }

 private:
  struct Sample {
    Time time;
    uint64_t events;
  };
  static constexpr std::chrono::milliseconds kGrain{100};
  static constexpr std::chrono::seconds kSpan{10};

  void DropOld(Time now) {
    while (!samples_.empty() && now - samples_.front().time > kSpan) samples_.pop_front();
  }

  std::deque<Sample> samples_;
};

}  // namespace tandem::parallel
