#include "launcher/options/cleanup_signals.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <functional>

namespace tandem::launcher {
namespace {

/// How a child that does `what`, and then waits for long, ends: its wait status.
int EndOfChild(const std::function<void()>& what) {
  const pid_t child = fork();
  if (child == 0) {
    what();
    std::this_thread::sleep_for(std::chrono::minutes(5));
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

TEST(CleanupSignals, TheLatestCleansUpFirstAndTheProcessDiesByTheSignal) {
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const auto tells = [&](const char* text) {
      return [&, text] { return [end = ends[1], text] { (void)!write(end, text, 1); }; };
    };
    const int status = EndOfChild([&] {
      for (const int each : {SIGINT, SIGTERM, SIGHUP}) (void)signal(each, SIG_DFL);
      CleanupSignals signals;
      const auto first = signals.Around(tells("1"));
      { const auto withdrawn = signals.Around(tells("2")); }
      // One that comes meanwhile waits for what is made.
      const auto third = signals.Around([&] {
        kill(getpid(), number);
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        return tells("3")();
      });
      std::this_thread::sleep_for(std::chrono::minutes(5));
    });
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == number) << status;
    close(ends[1]);
    char told[4] = {};
    EXPECT_EQ(read(ends[0], told, sizeof(told)), 2);
    EXPECT_STREQ(told, "31");
    close(ends[0]);
  }
}

std::atomic<int> handled{0};

TEST(CleanupSignals, OneThatIsIgnoredOrHandledEndsNothing) {
  const int status = EndOfChild([] {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_UNBLOCK, &all, nullptr);
    (void)signal(SIGHUP, SIG_IGN);
    (void)signal(SIGINT, SIG_DFL);
    CleanupSignals signals;
    kill(getpid(), SIGHUP);
    (void)signal(SIGINT, [](int number) { handled = number; });
    sigset_t interrupt;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    pthread_sigmask(SIG_UNBLOCK, &interrupt, nullptr);
    kill(getpid(), SIGINT);
    while (handled == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    _exit(handled);
  });
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == SIGINT) << status;
}

}  // namespace
}  // namespace tandem::launcher
