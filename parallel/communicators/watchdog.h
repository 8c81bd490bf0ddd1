#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/base/mutex.h"
#include "parallel/communicators/progress_board.h"

namespace tandem::parallel {

/// A collective that takes too long, and who keeps it waiting.
struct StalledCollective {
  int waiting_rank = 0;  // the one whose wait this is
  core::StepPhase phase;
  uint64_t collective = 0;
  std::chrono::duration<double> waited{0};
  std::vector<int> laggards;  // ranks known not to have come yet
  std::vector<int> passed;    // ranks that were in it and have gone on
  std::vector<int> unseen;    // ranks of which the board has never heard
  std::string text;           // all of it in one line, with places and the laggards' last phases
};

/// The collective in which a rank of this process has waited longest, if that is longer than
/// `deadline` at time `now`. What others said may be old, so none of them is waited for too long.
std::optional<StalledCollective> FindStalledCollective(const ProgressBoard& board,
                                                       std::chrono::steady_clock::duration deadline,
                                                       std::chrono::steady_clock::time_point now);

/// Who is to blame once a collective is known to be stalled: the wait of the rank that has come
/// furthest, of this process or another, if one waits.
std::optional<StalledCollective> FindFurthestWait(const ProgressBoard& board,
                                                  std::chrono::steady_clock::time_point now);

/// A thread that looks at a board and reports each collective that takes longer than a deadline,
/// once.
///
/// It needs nothing from the ranks but the board, so it works while they hang. `report` is called
/// from the watchdog's thread and must not destroy the watchdog. The board must outlive it. Thread
/// safety: all methods.
class Watchdog {
 public:
  Watchdog(const ProgressBoard& board, std::chrono::steady_clock::duration deadline,
           std::function<void(const StalledCollective&)> report);
  ~Watchdog();

  /// Who is told of a stalled collective before `report` is called `grace` later; null: nobody. Is
  /// called from the watchdog's thread, and not any more once another TellFirst has returned.
  void TellFirst(std::function<void(const StalledCollective&)> told,
                 std::chrono::steady_clock::duration grace);

  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  void Watch();

  const ProgressBoard& board_;
  const std::chrono::steady_clock::duration deadline_;
  const std::function<void(const StalledCollective&)> report_;
  Mutex mutex_;
  CondVar changed_;
  std::function<void(const StalledCollective&)> told_ ABSL_GUARDED_BY(mutex_);
  std::chrono::steady_clock::duration grace_ ABSL_GUARDED_BY(mutex_){};
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: starts when all else is there
};

}  // namespace tandem::parallel
