#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <span>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/base/mutex.h"
#include "kv_store/records/tier.h"

namespace tandem::kv_store {

/// Records on their way to a slower tier, and the thread that writes them there in batches, in the
/// order in which they were pushed. Whoever pushes does not wait for that tier; the bytes that wait
/// or are being written are bounded.
///
/// A mark stands between records. It comes with the batch that has the last record before it, or
/// with the next batch, which may have no records. Thread safety: all functions; `write` is called
/// from the queue's thread only.
class WriteBehindQueue {
 public:
  using Clock = std::chrono::steady_clock;
  struct Batch {
    std::vector<TierRecord> records;
    std::vector<uint64_t> marks;
  };
  /// What it returns is told by TakeFailure.
  using Write = std::function<absl::Status(const Batch& batch)>;

  WriteBehindQueue(int64_t most_bytes, Write write);
  ~WriteBehindQueue() { Stop(); }
  WriteBehindQueue(const WriteBehindQueue&) = delete;
  WriteBehindQueue& operator=(const WriteBehindQueue&) = delete;

  /// Writes what waits and ends the thread; false if that is done already. Called by one thread,
  /// when nobody pushes any more.
  bool Stop();

  /// False if there is no room by the deadline. A record that waits already is not pushed again.
  bool Push(const TierRecord& record, Clock::time_point deadline = {});
  /// Keeps room for records of so many bytes together, which PushReserved then brings; false if
  /// there is none.
  bool Reserve(int64_t bytes);
  void PushReserved(const std::vector<TierRecord>& records);
  void Mark(uint64_t mark);

  /// A record that waits or is being written.
  std::optional<TierRecord> Find(const RecordKey& key) const;
  /// Waits until all that was pushed before is written; how many records are not by the deadline.
  uint64_t Await(Clock::time_point deadline = Clock::time_point::max());

  /// Counts as a batch that failed.
  void Fail(absl::Status why);
  /// The first failure since it was asked last.
  absl::Status TakeFailure();

 private:
  void Run();
  Batch NextBatch() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Add(const TierRecord& record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int64_t most_bytes_;
  const Write write_;

  mutable Mutex mutex_;
  CondVar changed_;
  std::deque<TierRecord> queue_ ABSL_GUARDED_BY(mutex_);
  // Records pushed before it, the mark.
  std::deque<std::pair<uint64_t, uint64_t>> marks_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<RecordKey, TierRecord, BlockHashBits> on_their_way_ ABSL_GUARDED_BY(mutex_);
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;     // reserved, waiting or being written
  uint64_t pushed_ ABSL_GUARDED_BY(mutex_) = 0;   // records ever
  uint64_t written_ ABSL_GUARDED_BY(mutex_) = 0;  // of them, done with
  absl::Status failed_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;

  std::thread thread_;
};

}  // namespace tandem::kv_store
