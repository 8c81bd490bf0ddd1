#include "launcher/options/cleanup_signals.h"

#include <signal.h>

#include <iterator>
#include <utility>

namespace tandem::launcher {
namespace {

constexpr int kEndOfWatch = SIGUSR2;

/// The handler of a signal, SIG_DFL or SIG_IGN.
auto HandlerOf(int signal) {
  struct sigaction action {};
  sigaction(signal, nullptr, &action);
  return action.sa_handler;
}

void DieBy(int signal) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  sigaction(signal, &action, nullptr);
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  raise(signal);
}

}  // namespace

CleanupSignals::CleanupSignals() : owner_(pthread_self()) {
  sigemptyset(&watched_);
  sigaddset(&watched_, kEndOfWatch);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    if (HandlerOf(signal) != SIG_IGN) sigaddset(&watched_, signal);
  }
  pthread_sigmask(SIG_BLOCK, &watched_, &mask_before_);
  thread_ = std::thread([this] { Watch(); });
}

CleanupSignals::~CleanupSignals() {
  pthread_kill(thread_.native_handle(), kEndOfWatch);
  thread_.join();
  pthread_sigmask(SIG_SETMASK, &mask_before_, nullptr);
}

CleanupSignals::Registration CleanupSignals::Around(
    const std::function<std::function<void()>()>& make) {
  const MutexLock lock(mutex_);
  cleanups_.push_front(make());
  Registration registration;
  registration.signals_ = this;
  registration.place_ = cleanups_.begin();
  return registration;
}

void CleanupSignals::Withdraw(std::list<std::function<void()>>::iterator place) {
  const MutexLock lock(mutex_);
  cleanups_.erase(place);
}

void CleanupSignals::Watch() {
  for (int signal = 0; sigwait(&watched_, &signal) == 0 && signal != kEndOfWatch;) {
    if (HandlerOf(signal) != SIG_DFL) {
      pthread_kill(owner_, signal);
      continue;
    }
    // Whoever would withdraw one now waits here until the process has ended.
    const MutexLock lock(mutex_);
    for (const auto& clean_up : cleanups_) clean_up();
    DieBy(signal);
  }
}

}  // namespace tandem::launcher
