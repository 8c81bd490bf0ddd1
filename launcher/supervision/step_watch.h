#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include "parallel/engine/engine.h"

namespace tandem::launcher {

/// Sees ranks that live and do nothing: requests run, and no step comes to its end. What hangs in a
/// collective is found by the ranks' own watchdogs, which are quicker and know where.
/// Thread safety: none.
class StepWatch {
 public:
  using Clock = std::chrono::steady_clock;

  explicit StepWatch(Clock::duration patience) : patience_(patience) {}

  /// Ranks that were not looked at before.
  void Begin() { last_.reset(); }
  /// Whether no step has ended for too long, as far as that was seen: time between two looks counts
  /// for little more than a second, so that who was stopped himself blames nobody.
  bool Stuck(const parallel::EngineStatus& status, Clock::time_point now);
  Clock::duration patience() const { return patience_; }

 private:
  struct Look {
    uint64_t steps = 0;
    Clock::time_point at;
    Clock::duration still{0};
  };
  const Clock::duration patience_;
  std::optional<Look> last_;
};

}  // namespace tandem::launcher
