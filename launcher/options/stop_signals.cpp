#include "launcher/options/stop_signals.h"

#include <pthread.h>
#include <signal.h>

namespace tandem::launcher {
namespace {

/// Whoever was started with SIGHUP ignored (nohup) outlives its terminal.
bool HeedsHangUp() {
  struct sigaction action {};
  return sigaction(SIGHUP, nullptr, &action) != 0 || action.sa_handler != SIG_IGN;
}

sigset_t StopSet() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  if (HeedsHangUp()) sigaddset(&set, SIGHUP);
  return set;
}

sigset_t WatchedSignals() {
  sigset_t set = StopSet();
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
  const sigset_t stop = StopSet();
  sigset_t pending;
  sigset_t told;
  sigemptyset(&told);
  if (sigpending(&pending) == 0) sigandset(&told, &pending, &stop);
  return sigisemptyset(&told) == 0 ? absl::CancelledError("it was told to end before it was ready")
                                   : absl::OkStatus();
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
