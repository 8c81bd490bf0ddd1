#include "launcher/options/interrupt_flag.h"

#include <pthread.h>

#include <atomic>
#include <utility>

namespace tandem::launcher {
namespace {

/// Signal handlers can reach nothing but what is static.
std::atomic<bool> interrupt_came{false};
static_assert(std::atomic<bool>::is_always_lock_free);

sigset_t JustInterrupt() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

void InterruptFlag::Watch() {
  if (std::exchange(watches_, true)) return;
  interrupt_came.store(false);
  struct sigaction action {};
  action.sa_handler = [](int) { interrupt_came.store(true); };
  // Whoever writes to a terminal then goes on.
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
  pthread_sigmask(SIG_BLOCK, nullptr, &mask_before_);
  sigaction(SIGINT, nullptr, &before_);
  if (before_.sa_handler == SIG_IGN) return;
  sigaction(SIGINT, &action, nullptr);
  // Whoever composed this may have blocked it for threads of its own.
  const sigset_t interrupt = JustInterrupt();
  pthread_sigmask(SIG_UNBLOCK, &interrupt, nullptr);
}

InterruptFlag::~InterruptFlag() {
  if (!watches_) return;
  pthread_sigmask(SIG_SETMASK, &mask_before_, nullptr);
  sigaction(SIGINT, &before_, nullptr);
}

bool InterruptFlag::raised() const { return watches_ && interrupt_came.load(); }

void DieInterrupted() {
  (void)signal(SIGINT, SIG_DFL);
  const sigset_t interrupt = JustInterrupt();
  pthread_sigmask(SIG_UNBLOCK, &interrupt, nullptr);
  (void)raise(SIGINT);
}

}  // namespace tandem::launcher
