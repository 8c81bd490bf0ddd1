#include "kv_store/records/write_behind_queue.h"

#include <gmock/gmock.h>

#include <atomic>
#include <set>
#include <thread>

#include "gtest/gtest.h"
#include "tests/support/tier_records.h"

namespace tandem::kv_store {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::Pair;
using testing::RecordOf;

TierRecord Numbered(int n, int bytes = 100) { return RecordOf(n, 0, 0, bytes); }

/// A queue that writes down what it is told to write, as long as it is not held.
struct Watched {
  explicit Watched(int64_t most_bytes)
      : queue(most_bytes, [this](const WriteBehindQueue::Batch& batch) {
          ++begun;
          while (held) std::this_thread::sleep_for(milliseconds(1));
          const std::lock_guard lock(mutex);
          for (const TierRecord& record : batch.records) written.push_back(record.key);
          for (const uint64_t mark : batch.marks) marks.emplace_back(mark, written.size());
          return fails ? ResourceExhausted("full") : absl::OkStatus();
        }) {}
  /// Until the thread is about to write something, or has.
  void AwaitBegun() {
    while (begun == 0) std::this_thread::sleep_for(milliseconds(1));
  }

  std::atomic<bool> held = false;
  std::atomic<bool> fails = false;
  std::atomic<int> begun = 0;
  std::mutex mutex;
  std::vector<RecordKey> written;
  std::vector<std::pair<uint64_t, size_t>> marks;  // and how many records came before
  WriteBehindQueue queue;
};

TEST(WriteBehindQueue, WritesInOrderAndMarksBehindWhatStandsBeforeThem) {
  Watched watched(1 << 20);
  watched.held = true;
  watched.queue.Mark(7);
  watched.AwaitBegun();
  std::vector<RecordKey> keys;
  for (int n = 1; n <= 20; ++n) {
    keys.push_back(Numbered(n).key);
    ASSERT_TRUE(watched.queue.Push(Numbered(n)));
    if (n == 10) watched.queue.Mark(10);
  }
  watched.queue.Mark(20);
  watched.held = false;
  EXPECT_EQ(watched.queue.Await(), 0U);
  EXPECT_TRUE(watched.queue.Stop());
  EXPECT_FALSE(watched.queue.Stop());
  EXPECT_EQ(watched.written, keys);
  ASSERT_EQ(watched.marks.size(), 3U);
  EXPECT_EQ(watched.marks[0], std::pair(uint64_t{7}, size_t{0}));
  EXPECT_EQ(watched.marks[1].first, 10U);
  EXPECT_GE(watched.marks[1].second, 10U);
  EXPECT_EQ(watched.marks[2], std::pair(uint64_t{20}, size_t{20}));
}

TEST(WriteBehindQueue, LargeBatchesAreCutAndMarksComeWithTheLastPart) {
  Watched watched(int64_t{100} << 20);
  watched.held = true;
  watched.queue.Mark(1);
  watched.AwaitBegun();
  for (int n = 1; n <= 5; ++n) ASSERT_TRUE(watched.queue.Push(Numbered(n, 8 << 20)));
  watched.queue.Mark(2);
  watched.held = false;
  watched.queue.Stop();
  EXPECT_EQ(watched.begun, 4) << "16 MiB at once";
  EXPECT_EQ(watched.written.size(), 5U);
  EXPECT_THAT(watched.marks, ElementsAre(Pair(1U, 0U), Pair(2U, 5U)));
}

TEST(WriteBehindQueue, BytesThatWaitAreBounded) {
  Watched watched(250);
  watched.held = true;
  EXPECT_TRUE(watched.queue.Push(Numbered(1)));
  EXPECT_TRUE(watched.queue.Reserve(100));
  EXPECT_FALSE(watched.queue.Reserve(100));
  EXPECT_FALSE(watched.queue.Push(Numbered(3)));
  EXPECT_TRUE(watched.queue.Push(Numbered(1))) << "it waits already, and takes no more room";
  const auto begin = WriteBehindQueue::Clock::now();
  EXPECT_FALSE(watched.queue.Push(Numbered(3), begin + milliseconds(20)));
  EXPECT_GE(WriteBehindQueue::Clock::now() - begin, milliseconds(20));
  watched.queue.PushReserved({Numbered(2)});
  EXPECT_EQ(watched.queue.Await(begin), 2U) << "not done yet";
  std::thread release([&] {
    std::this_thread::sleep_for(milliseconds(20));
    watched.held = false;
  });
  EXPECT_TRUE(watched.queue.Push(Numbered(3), begin + std::chrono::seconds(60)));
  release.join();
  EXPECT_EQ(watched.queue.Await(), 0U);
  EXPECT_FALSE(watched.queue.Push(Numbered(4, 251))) << "what can never fit";
  watched.queue.Stop();
  EXPECT_THAT(watched.written, ElementsAre(Numbered(1).key, Numbered(2).key, Numbered(3).key));
}

TEST(WriteBehindQueue, WhatIsOnItsWayIsFoundUntilItIsWritten) {
  Watched watched(1000);
  watched.held = true;
  ASSERT_TRUE(watched.queue.Push(Numbered(1)));
  watched.AwaitBegun();
  ASSERT_TRUE(watched.queue.Push(Numbered(2)));
  for (const int n : {1, 2}) {
    const auto found = watched.queue.Find(Numbered(n).key);
    ASSERT_TRUE(found.has_value());
    EXPECT_EQ(found->bytes, Numbered(n).bytes);
  }
  EXPECT_FALSE(watched.queue.Find(Numbered(3).key).has_value());
  watched.held = false;
  EXPECT_EQ(watched.queue.Await(), 0U);
  for (const int n : {1, 2}) EXPECT_FALSE(watched.queue.Find(Numbered(n).key).has_value());
}

TEST(WriteBehindQueue, TheFirstFailureIsToldOnce) {
  Watched watched(1000);
  EXPECT_TRUE(watched.queue.TakeFailure().ok());
  watched.fails = true;
  ASSERT_TRUE(watched.queue.Push(Numbered(1)));
  watched.queue.Await();
  watched.queue.Fail(Unavailable("later"));
  EXPECT_TRUE(absl::IsResourceExhausted(watched.queue.TakeFailure()));
  EXPECT_TRUE(watched.queue.TakeFailure().ok());
  watched.queue.Fail(Unavailable("later"));
  EXPECT_TRUE(absl::IsUnavailable(watched.queue.TakeFailure()));
}

TEST(WriteBehindQueue, WritesAllOfManyThreadsOnce) {
  constexpr int kThreads = 4;
  constexpr int kEach = 300;
  Watched watched(2000);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kEach; ++i) {
        const TierRecord record = Numbered(1 + t * kEach + i);
        ASSERT_TRUE(watched.queue.Push(record, WriteBehindQueue::Clock::time_point::max()));
        if (i % 50 == 0) {
          watched.queue.Mark(static_cast<uint64_t>(t));
          EXPECT_EQ(watched.queue.Await(), 0U);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  watched.queue.Stop();
  EXPECT_EQ(watched.written.size(), size_t{kThreads * kEach});
  EXPECT_EQ(std::set(watched.written.begin(), watched.written.end()).size(),
            size_t{kThreads * kEach});
  EXPECT_EQ(watched.marks.size(), size_t{kThreads * kEach / 50});
}

}  // namespace
}  // namespace tandem::kv_store
