#include "core/base/mutex.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace tandem {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

struct Counter {
  Mutex mutex;
  CondVar changed;
  int value ABSL_GUARDED_BY(mutex) = 0;
};

TEST(MutexTest, LetsOneThreadInAtATime) {
  constexpr int kThreads = 4, kRounds = 10'000;
  Counter counter;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kRounds; ++i) {
        const MutexLock lock(counter.mutex);
        ++counter.value;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const MutexLock lock(counter.mutex);
  EXPECT_EQ(counter.value, kThreads * kRounds);
}

TEST(MutexTest, AWaitGivesTheMutexUpAndHoldsItAgain) {
  Counter counter;
  std::thread answers([&] {
    const MutexLock lock(counter.mutex);
    while (counter.value != 1) counter.changed.Wait(counter.mutex);
    counter.value = 2;
    counter.changed.NotifyAll();
  });
  {
    MutexLock lock(counter.mutex);
    counter.value = 1;
    counter.changed.NotifyAll();
    while (counter.value != 2) counter.changed.Wait(counter.mutex);
    lock.Unlock();
    answers.join();
    lock.Lock();
    EXPECT_EQ(counter.value, 2);
  }
}

TEST(MutexTest, AWaitEndsAtItsDeadline) {
  Counter counter;
  const MutexLock lock(counter.mutex);
  const auto begin = Clock::now();
  const auto deadline = begin + milliseconds(20);
  while (counter.changed.WaitUntil(counter.mutex, deadline)) {
  }
  EXPECT_GE(Clock::now(), deadline);
  EXPECT_FALSE(counter.changed.WaitUntil(counter.mutex, begin));  // has passed
  counter.changed.WaitFor(counter.mutex, milliseconds(1));
}

TEST(SharedMutexTest, ManyReadWhileNobodyChanges) {
  SharedMutex mutex;
  int value = 0;
  std::thread writes;
  {
    const ReaderMutexLock one(mutex);
    std::thread([&] {
      mutex.ReaderLock();
      EXPECT_EQ(value, 0);
      mutex.ReaderUnlock();
    }).join();
    writes = std::thread([&] {
      const WriterMutexLock lock(mutex);
      value = 1;
    });
    EXPECT_EQ(value, 0);
  }
  writes.join();
  const ReaderMutexLock lock(mutex);
  EXPECT_EQ(value, 1);
}

}  // namespace
}  // namespace tandem
