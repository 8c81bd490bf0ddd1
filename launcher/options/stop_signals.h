#pragma once

#include <functional>
#include <thread>

#include "core/base/status.h"

namespace tandem::launcher {

/// SIGINT, SIGTERM and SIGHUP as calls on a thread of their own, in place of the death of the
/// process. SIGHUP only where the process was not started with it ignored.
///
/// Construct before any other thread is started, so that all of them inherit the blocked signals.
/// Children must unblock them.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  /// kCancelled if one of them has come that nobody watches for yet.
  static absl::Status CheckPending();

  /// From now on each signal calls `action`, from the watching thread. A second signal within the
  /// action's time is not lost.
  void Watch(std::function<void(int signal)> action);
  /// No call is made after this returns.
  void Unwatch();

 private:
  void EndThread();
  std::thread thread_;
};

}  // namespace tandem::launcher
