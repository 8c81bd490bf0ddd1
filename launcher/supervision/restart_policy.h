#pragma once

#include <chrono>
#include <deque>
#include <optional>

namespace tandem::launcher {

/// When ranks that have died are started again, and when no more. Thread safety: none.
///
/// The first restart is at once. After a life that was too short to be of use the next one waits,
/// twice as long each time.
class RestartPolicy {
 public:
  using Clock = std::chrono::steady_clock;

  /// most: restarts within an hour.
  explicit RestartPolicy(int most) : most_(most) {}

  /// A life has ended at `now`, after it ran for `lived` (zero: it did not even start). How long to
  /// wait before the next one; nothing: there were as many as there may be.
  std::optional<Clock::duration> Next(Clock::time_point now, Clock::duration lived);

 private:
  const int most_;
  std::deque<Clock::time_point> restarts_;  // of the last hour
  int short_lives_ = 0;                     // in a row
};

}  // namespace tandem::launcher
