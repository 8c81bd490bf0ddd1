#include "parallel/rank/record_writer.h"

#include "core/base/status.h"

namespace tandem::parallel {

RecordWriter::RecordWriter(kv_store::Tier& tier, int64_t most_bytes, OnFlushed on_flushed,
                           std::function<void()> on_trouble)
    : tier_(tier),
      on_flushed_(std::move(on_flushed)),
      on_trouble_(std::move(on_trouble)),
      queue_(most_bytes,
             [this](const kv_store::WriteBehindQueue::Batch& batch) { return Write(batch); }) {}

void RecordWriter::Stop() {
  // Who ends in good order leaves nothing behind.
  if (queue_.Stop()) static_cast<void>(tier_.Flush());
}

bool RecordWriter::Reserve(size_t records, int64_t bytes) {
  if (queue_.Reserve(bytes)) return true;
  const MutexLock lock(mutex_);
  counts_.dropped += records;
  lost_ = true;
  trouble_ = true;
  return false;
}

RecordWriter::Counts RecordWriter::counts() const {
  const MutexLock lock(mutex_);
  return counts_;
}

absl::Status RecordWriter::Write(const kv_store::WriteBehindQueue::Batch& batch) {
  absl::Status put;
  if (!batch.records.empty()) put = tier_.Put(batch.records);
  const absl::Status flushed = batch.marks.empty() ? absl::OkStatus() : tier_.Flush();
  bool safe = true;
  bool trouble = false;
  {
    const MutexLock lock(mutex_);
    counts_.put += batch.records.size();
    if (!put.ok()) counts_.refused += batch.records.size();
    lost_ = lost_ || !put.ok();
    trouble = std::exchange(trouble_, false) || !put.ok();
    // A save that was dropped behind the mark may be blamed on it, too: rather that than to call
    // safe what is not.
    if (!batch.marks.empty()) safe = !std::exchange(lost_, false) && flushed.ok();
  }
  for (const uint64_t mark : batch.marks) on_flushed_(mark, safe);
  if (trouble) on_trouble_();
  return put;
}

}  // namespace tandem::parallel
