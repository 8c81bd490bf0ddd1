#pragma once

#include <string>
#include <thread>

#include "core/base/mutex.h"

namespace tandem::launcher {

/// Where `tandem status --watch` shows its blocks of lines: on a terminal each in place of the one
/// before, on a screen of its own that goes when the program ends (only the last block stays); into
/// a pipe or file each below the one before, with an empty line between.
///
/// On a terminal, construct it before any other thread is started: it takes the signals that end,
/// stop or resize, and on those that end it gives the terminal back and ends the process (status
/// 0), whatever other threads wait for. One a process. Thread safety: one thread.
class StatusScreen {
 public:
  StatusScreen();
  ~StatusScreen();
  StatusScreen(const StatusScreen&) = delete;
  StatusScreen& operator=(const StatusScreen&) = delete;

  void Show(const std::string& block);

 private:
  void Enter();
  void Leave() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Draw() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TakeSignals();

  const bool terminal_;
  Mutex mutex_;  // guards the terminal, too
  std::string block_ ABSL_GUARDED_BY(mutex_);
  std::thread signals_;
};

}  // namespace tandem::launcher
