#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "kv_store/records/tier.h"

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
  ~RecordWriter();
  RecordWriter(const RecordWriter&) = delete;
  RecordWriter& operator=(const RecordWriter&) = delete;

  /// Puts and flushes what still waits, and ends the thread. Called by one thread.
  void Stop();

  /// Room for so many records of so many bytes together, which Put then brings; false, and they
  /// count as dropped, if there is none.
  bool Reserve(size_t records, int64_t bytes);
  void Put(std::vector<kv_store::TierRecord> records);
  /// on_flushed is called once all that was put before is flushed. Marks that wait together are
  /// reached by one flush.
  void Mark(uint64_t mark);

  Counts counts() const;

 private:
  struct Work {
    std::vector<kv_store::TierRecord> records;
    std::vector<uint64_t> marks;
  };

  void Run();
  void Do(Work work);

  kv_store::Tier& tier_;
  const int64_t most_bytes_;
  const OnFlushed on_flushed_;
  const std::function<void()> on_trouble_;

  mutable std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  Work waiting_;
  int64_t bytes_ = 0;  // reserved, and not yet with the tier
  bool lost_ = false;  // something, since the last mark that was reached
  bool trouble_ = false;
  bool stopping_ = false;
  Counts counts_;

  std::thread thread_;
};

}  // namespace tandem::parallel
