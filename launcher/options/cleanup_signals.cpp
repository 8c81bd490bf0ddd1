#include "launcher/options/cleanup_signals.h"

#include <signal.h>

#include <atomic>
#include <iterator>
#include <utility>

namespace tandem::launcher {
namespace {

constexpr int kEndOfWatch = SIGURG;  // higher than the others: sigwait takes it last

/// The thread that cleans up. Signal handlers can reach nothing but what is static.
std::atomic<pthread_t> watching_thread{};
static_assert(std::atomic<pthread_t>::is_always_lock_free);

/// SIGPIPE is of the thread that writes, so that another cannot wait for it.
void PassOnBrokenPipe(int signal) { pthread_kill(watching_thread.load(), signal); }

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
  sigset_t writers = watched_;  // the watching thread waits for it, and the others have the handler
  sigaddset(&writers, SIGPIPE);
  thread_ = std::thread([this, writers] {
    pthread_sigmask(SIG_BLOCK, &writers, nullptr);
    watched_ = writers;
    Watch();
  });
  watching_thread.store(thread_.native_handle());
  if (HandlerOf(SIGPIPE) == SIG_DFL) {
    struct sigaction action {};
    action.sa_handler = &PassOnBrokenPipe;
    sigaction(SIGPIPE, &action, nullptr);
  }
}

CleanupSignals::~CleanupSignals() {
  pthread_kill(thread_.native_handle(), kEndOfWatch);
  thread_.join();
  if (HandlerOf(SIGPIPE) == &PassOnBrokenPipe) (void)signal(SIGPIPE, SIG_DFL);
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
    if (HandlerOf(signal) != SIG_DFL && signal != SIGPIPE) {
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
