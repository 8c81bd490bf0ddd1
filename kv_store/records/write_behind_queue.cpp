#include "kv_store/records/write_behind_queue.h"

namespace tandem::kv_store {
namespace {

constexpr int64_t kBatchBytes = int64_t{16} << 20;

int64_t BytesOf(const TierRecord& record) { return static_cast<int64_t>(record.bytes.size()); }

}  // namespace

WriteBehindQueue::WriteBehindQueue(int64_t most_bytes, Write write)
    : most_bytes_(most_bytes), write_(std::move(write)), thread_([this] { Run(); }) {}

bool WriteBehindQueue::Stop() {
  {
    const MutexLock lock(mutex_);
    stop_ = true;
    changed_.NotifyAll();
  }
  if (!thread_.joinable()) return false;
  thread_.join();
  return true;
}

void WriteBehindQueue::Add(const TierRecord& record) {
  queue_.push_back(record);
  on_their_way_[record.key] = record;
  ++pushed_;
  changed_.NotifyAll();
}

bool WriteBehindQueue::Push(const TierRecord& record, Clock::time_point deadline) {
  const MutexLock lock(mutex_);
  if (on_their_way_.contains(record.key)) return true;
  while (bytes_ + BytesOf(record) > most_bytes_) {
    if (!changed_.WaitUntil(mutex_, deadline)) return false;
  }
  bytes_ += BytesOf(record);
  Add(record);
  return true;
}

bool WriteBehindQueue::Reserve(int64_t bytes) {
  const MutexLock lock(mutex_);
  if (bytes_ + bytes > most_bytes_) return false;
  bytes_ += bytes;
  return true;
}

void WriteBehindQueue::PushReserved(const std::vector<TierRecord>& records) {
  const MutexLock lock(mutex_);
  for (const TierRecord& record : records) Add(record);
}

void WriteBehindQueue::Mark(uint64_t mark) {
  const MutexLock lock(mutex_);
  marks_.emplace_back(pushed_, mark);
  changed_.NotifyAll();
}

std::optional<TierRecord> WriteBehindQueue::Find(const RecordKey& key) const {
  const MutexLock lock(mutex_);
  const auto found = on_their_way_.find(key);
  return found == on_their_way_.end() ? std::nullopt : std::optional(found->second);
}

uint64_t WriteBehindQueue::Await(Clock::time_point deadline) {
  const MutexLock lock(mutex_);
  const uint64_t pushed = pushed_;
  while (written_ < pushed && changed_.WaitUntil(mutex_, deadline)) {
  }
  return pushed - std::min(pushed, written_);
}

void WriteBehindQueue::Fail(absl::Status why) {
  const MutexLock lock(mutex_);
  if (failed_.ok()) failed_ = std::move(why);
}

absl::Status WriteBehindQueue::TakeFailure() {
  const MutexLock lock(mutex_);
  return std::exchange(failed_, absl::OkStatus());
}

WriteBehindQueue::Batch WriteBehindQueue::NextBatch() {
  Batch batch;
  for (int64_t bytes = 0; !queue_.empty() && bytes < kBatchBytes; queue_.pop_front()) {
    bytes += BytesOf(queue_.front());
    batch.records.push_back(std::move(queue_.front()));
  }
  for (; !marks_.empty() && marks_.front().first <= written_ + batch.records.size();
       marks_.pop_front()) {
    batch.marks.push_back(marks_.front().second);
  }
  return batch;
}

void WriteBehindQueue::Run() {
  for (;;) {
    Batch batch;  // its memory is freed without the lock
    {
      const MutexLock lock(mutex_);
      while (!stop_ && queue_.empty() && marks_.empty()) changed_.Wait(mutex_);
      if (queue_.empty() && marks_.empty()) return;
      batch = NextBatch();
    }
    absl::Status status = write_(batch);
    const MutexLock lock(mutex_);
    if (failed_.ok()) failed_ = std::move(status);
    for (const TierRecord& record : batch.records) {
      on_their_way_.erase(record.key);
      bytes_ -= BytesOf(record);
    }
    written_ += batch.records.size();
    changed_.NotifyAll();
  }
}

}  // namespace tandem::kv_store
