#pragma once

#include <pthread.h>
#include <signal.h>

#include <functional>
#include <list>
#include <thread>
#include <utility>

#include "core/base/mutex.h"

namespace tandem::launcher {

/// Before SIGINT, SIGTERM, SIGHUP or SIGPIPE ends this process, what it would leave behind is
/// cleaned up. It dies by that signal all the same. One may be there at a time.
///
/// A signal that the process was started with as ignored stays ignored; one that has got a handler
/// since is passed to the constructing thread. Construct before any other thread is started, so
/// that all of them inherit the blocked signals. Children must unblock them.
class CleanupSignals {
 public:
  /// Withdraws its cleanup when it goes. Thread safety: none.
  class Registration {
   public:
    Registration() = default;
    Registration(Registration&& other) noexcept { *this = std::move(other); }
    Registration& operator=(Registration&& other) noexcept {
      std::swap(signals_, other.signals_);
      std::swap(place_, other.place_);
      return *this;
    }
    ~Registration() {
      if (signals_ != nullptr) signals_->Withdraw(place_);
    }

   private:
    friend class CleanupSignals;
    CleanupSignals* signals_ = nullptr;
    std::list<std::function<void()>>::iterator place_;
  };

  CleanupSignals();
  ~CleanupSignals();
  CleanupSignals(const CleanupSignals&) = delete;
  CleanupSignals& operator=(const CleanupSignals&) = delete;

  /// Runs `make` while no signal ends this process. What it returns cleans up after it: from then
  /// on a signal runs that first, on a thread of its own, the latest before the others.
  [[nodiscard]] Registration Around(const std::function<std::function<void()>()>& make);

 private:
  void Withdraw(std::list<std::function<void()>>::iterator place);
  void Watch();

  const pthread_t owner_;
  sigset_t watched_{};
  sigset_t mask_before_{};
  Mutex mutex_;
  std::list<std::function<void()>> cleanups_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace tandem::launcher
