#include "parallel/rank/record_writer.h"

#include <utility>

#include "core/base/status.h"

namespace tandem::parallel {

RecordWriter::RecordWriter(kv_store::Tier& tier, int64_t most_bytes, OnFlushed on_flushed,
                           std::function<void()> on_trouble)
    : tier_(tier),
      most_bytes_(most_bytes),
      on_flushed_(std::move(on_flushed)),
      on_trouble_(std::move(on_trouble)),
      thread_([this] { Run(); }) {}

RecordWriter::~RecordWriter() { Stop(); }

void RecordWriter::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

bool RecordWriter::Reserve(size_t records, int64_t bytes) {
  const std::lock_guard lock(mutex_);
  if (bytes_ + bytes > most_bytes_) {
    counts_.dropped += records;
    lost_ = true;
    trouble_ = true;
    return false;
  }
  bytes_ += bytes;
  return true;
}

void RecordWriter::Put(std::vector<kv_store::TierRecord> records) {
  const std::lock_guard lock(mutex_);
  for (kv_store::TierRecord& record : records) waiting_.records.push_back(std::move(record));
  changed_.notify_all();
}

void RecordWriter::Mark(uint64_t mark) {
  const std::lock_guard lock(mutex_);
  waiting_.marks.push_back(mark);
  changed_.notify_all();
}

RecordWriter::Counts RecordWriter::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

void RecordWriter::Run() {
  for (;;) {
    Work work;
    {
      std::unique_lock lock(mutex_);
      const auto busy = [this] { return !waiting_.records.empty() || !waiting_.marks.empty(); };
      changed_.wait(lock, [&] { return stopping_ || busy(); });
      if (!busy()) break;
      work = std::exchange(waiting_, {});
    }
    Do(std::move(work));
  }
  // Who ends in good order leaves nothing behind.
  const absl::Status flushed = tier_.Flush();
  static_cast<void>(flushed);
}

void RecordWriter::Do(Work work) {
  absl::Status put;
  if (!work.records.empty()) put = tier_.Put(work.records);
  int64_t bytes = 0;
  for (const kv_store::TierRecord& record : work.records) {
    bytes += static_cast<int64_t>(record.bytes.size());
  }
  const absl::Status flushed = work.marks.empty() ? absl::OkStatus() : tier_.Flush();
  bool safe = true;
  bool trouble = false;
  {
    const std::lock_guard lock(mutex_);
    bytes_ -= bytes;
    counts_.put += work.records.size();
    if (!put.ok()) counts_.refused += work.records.size();
    lost_ = lost_ || !put.ok();
    trouble = std::exchange(trouble_, false) || !put.ok();
    // A save that was dropped behind the mark may be blamed on it, too: rather that than to call
    // safe what is not.
    if (!work.marks.empty()) safe = !std::exchange(lost_, false) && flushed.ok();
  }
  for (const uint64_t mark : work.marks) on_flushed_(mark, safe);
  if (trouble) on_trouble_();
}

}  // namespace tandem::parallel
