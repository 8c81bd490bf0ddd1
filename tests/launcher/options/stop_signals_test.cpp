#include "launcher/options/stop_signals.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

namespace tandem::launcher {
namespace {

TEST(StopSignals, OneThatComesEarlyIsKnownAndNotLost) {
  StopSignals signals;
  EXPECT_TRUE(StopSignals::CheckPending().ok());
  kill(getpid(), SIGTERM);
  EXPECT_TRUE(absl::IsCancelled(StopSignals::CheckPending()));
  std::atomic<int> heard = 0;
  signals.Watch([&](int signal) { heard = signal; });
  for (int i = 0; heard == 0 && i < 1000; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  signals.Unwatch();
  EXPECT_EQ(heard, SIGTERM);
  EXPECT_TRUE(StopSignals::CheckPending().ok());
}

TEST(StopSignals, AHangUpIsOneUnlessItIsIgnored) {
  for (const bool ignored : {false, true}) {
    const auto before = signal(SIGHUP, ignored ? SIG_IGN : SIG_DFL);
    {
      StopSignals signals;
      kill(getpid(), SIGHUP);
      EXPECT_EQ(StopSignals::CheckPending().ok(), ignored);
      if (!ignored) {
        std::atomic<int> heard = 0;
        signals.Watch([&](int number) { heard = number; });
        for (int i = 0; heard == 0 && i < 1000; ++i) {
          std::this_thread::sleep_for(std::chrono::milliseconds(10));
        }
        EXPECT_EQ(heard, SIGHUP);
      }
    }
    signal(SIGHUP, before);
  }
}

}  // namespace
}  // namespace tandem::launcher
