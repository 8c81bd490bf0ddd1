#include "core/base/thread_pool.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <xmmintrin.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace tandem::core {
namespace {

class ThreadPools : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Threads, ThreadPools, ::testing::Values(1, 2, 3, 8));

TEST_P(ThreadPools, RunsEveryTaskOnce) {
  for (const int spin : {0, 30}) {
    ThreadPool pool(GetParam(), spin);
    EXPECT_EQ(pool.threads(), GetParam());
    for (int round = 0; round < 300; ++round) {
      const int64_t tasks = round % 23;
      std::vector<int> runs(static_cast<size_t>(tasks));  // plain: each task is alone with its own
      pool.ParallelFor(tasks, [&](int64_t task, int worker) {
        ASSERT_GE(worker, 0);
        ASSERT_LT(worker, GetParam());
        ++runs[static_cast<size_t>(task)];
      });
      for (const int count : runs) ASSERT_EQ(count, 1);
    }
  }
}

TEST_P(ThreadPools, AJobSeesWhatTheOneBeforeWrote) {
  ThreadPool pool(GetParam());
  std::vector<int64_t> values(64);
  for (int round = 0; round < 200; ++round) {
    pool.ParallelFor(64, [&](int64_t task, int) {
      const auto neighbour = static_cast<size_t>((task + 1) % 64);
      values[static_cast<size_t>(task)] += static_cast<int64_t>(neighbour);
    });
    int64_t sum = 0;
    for (const int64_t value : values) sum += value;
    ASSERT_EQ(sum, (round + 1) * 63 * 32);
  }
}

TEST_P(ThreadPools, WakesSleepers) {
  ThreadPool pool(GetParam(), 0);
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::atomic<int> runs = 0;
    pool.ParallelFor(40, [&](int64_t, int) { ++runs; });
    ASSERT_EQ(runs, 40);
  }
}

TEST(ThreadPool, OtherThreadsTakePart) {
  ThreadPool pool(2);
  std::atomic<int> inside = 0;
  // Both tasks wait for each other: one thread alone would never end.
  pool.ParallelFor(2, [&](int64_t, int) {
    ++inside;
    while (inside < 2) std::this_thread::yield();
  });
  EXPECT_EQ(inside, 2);
}

TEST(ThreadPool, WorkersKeepDenormals) {
  constexpr unsigned kFlags = 0xe040;  // rounding, flush to zero, denormals are zero
  ThreadPool pool(2);
  std::atomic<int> inside = 0;
  pool.ParallelFor(2, [&](int64_t, int) {
    EXPECT_EQ(_mm_getcsr() & kFlags, 0U);
    ++inside;
    while (inside < 2) std::this_thread::yield();
  });
}

TEST(ThreadPool, IdlesWithoutProcessor) {
  ThreadPool pool(4, 30);
  pool.ParallelFor(8, [](int64_t, int) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const auto processor_time = [] {
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return std::chrono::seconds(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           std::chrono::microseconds(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
  };
  const auto before = processor_time();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_LT(processor_time() - before, std::chrono::milliseconds(20));
}

}  // namespace
}  // namespace tandem::core
