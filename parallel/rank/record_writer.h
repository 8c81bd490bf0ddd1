#pragma once

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "core/base/mutex.h"
#include "kv_store/records/tier.h"
#include "kv_store/records/write_behind_queue.h"

namespace tandem::parallel {

/// Puts a rank's records into its tier, in the order of the plans, on a thread of its own: a step
/// never waits for a tier. What waits is bounded; beyond that nothing is taken.
/// Thread safety: all methods.
class RecordWriter {
 public:
  struct Counts {
    uint64_t put = 0;
    uint64_t dropped = 0;
    uint64_t refused = 0;
  };
  /// A mark was reached; safe: all that was to be saved up to there is flushed.
  using OnFlushed = std::function<void(uint64_t mark, bool safe)>;

  /// on_trouble: a batch was not taken whole, or saves were dropped. Both are called from the
  /// writer's thread. The tier must outlive the writer.
  RecordWriter(kv_store::Tier& tier, int64_t most_bytes, OnFlushed on_flushed,
               std::function<void()> on_trouble);
  ~RecordWriter() { Stop(); }
  RecordWriter(const RecordWriter&) = delete;
  RecordWriter& operator=(const RecordWriter&) = delete;

  /// Puts and flushes what still waits, and ends the thread. Called by one thread.
  void Stop();

  /// Room for so many records of so many bytes together, which Put then brings; false, and they
  /// count as dropped, if there is none.
  bool Reserve(size_t records, int64_t bytes);
  void Put(const std::vector<kv_store::TierRecord>& records) { queue_.PushReserved(records); }
  /// on_flushed is called once all that was put before is flushed. Marks that wait together are
  /// reached by one flush.
  void Mark(uint64_t mark) { queue_.Mark(mark); }

  Counts counts() const;

 private:
  absl::Status Write(const kv_store::WriteBehindQueue::Batch& batch);

  kv_store::Tier& tier_;
  const OnFlushed on_flushed_;
  const std::function<void()> on_trouble_;

  mutable Mutex mutex_;
  bool lost_ ABSL_GUARDED_BY(mutex_) = false;  // something, since the last mark that was reached
  bool trouble_ ABSL_GUARDED_BY(mutex_) = false;
  Counts counts_ ABSL_GUARDED_BY(mutex_);

  kv_store::WriteBehindQueue queue_;
};

}  // namespace tandem::parallel
