#include "launcher/options/stop_signals.h"

#include <pthread.h>
#include <signal.h>

namespace tandem::launcher {
namespace {

sigset_t WatchedSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGUSR2);  // ends the watching thread
  return set;
}

}  // namespace

StopSignals::StopSignals() {
  const sigset_t set = WatchedSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

StopSignals::~StopSignals() { EndThread(); }

absl::Status StopSignals::CheckPending() {
  sigset_t pending;
  const bool told = sigpending(&pending) == 0 &&
                    (sigismember(&pending, SIGINT) == 1 || sigismember(&pending, SIGTERM) == 1);
  return told ? absl::CancelledError("it was told to end before it was ready") : absl::OkStatus();
}

void StopSignals::Watch(std::function<void(int)> action) {
  EndThread();
  thread_ = std::thread([action = std::move(action)] {
    const sigset_t set = WatchedSignals();
    for (int signal = 0; sigwait(&set, &signal) == 0 && signal != SIGUSR2;) action(signal);
  });
}

void StopSignals::Unwatch() { EndThread(); }

void StopSignals::EndThread() {
  if (!thread_.joinable()) return;
  pthread_kill(thread_.native_handle(), SIGUSR2);
  thread_.join();
}

}  // namespace tandem::launcher
