#include "core/cuda/peer/process_watch.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <thread>

namespace tandem::core {
namespace {

TEST(ProcessWatch, SeesThatAProcessHasEnded) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    pause();
    _exit(0);
  }
  ProcessName name = ThisProcess();
  name.number = child;
  const ProcessWatch watch(name);
  EXPECT_FALSE(watch.ended());
  kill(child, SIGKILL);
  for (int i = 0; i < 1000 && !watch.ended(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  // Nobody has waited for it yet.
  EXPECT_TRUE(watch.ended());
  waitpid(child, nullptr, 0);
  EXPECT_TRUE(watch.ended());
}

TEST(ProcessWatch, SaysNothingOfAProcessThatItCannotSee) {
  ProcessName name = ThisProcess();
  EXPECT_EQ(name, ThisProcess());
  EXPECT_FALSE(ProcessWatch(name).ended());
  ++name.names;
  EXPECT_FALSE(ProcessWatch(name).ended());
}

}  // namespace
}  // namespace tandem::core
