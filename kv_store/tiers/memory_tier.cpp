#include "kv_store/tiers/memory_tier.h"

#include <utility>

namespace tandem::kv_store {

MemoryTier::MemoryTier(TierLimits limits, OnEvict on_evict)
    : IndexedTier(TierKind::kHost, "KV host memory", limits), on_evict_(std::move(on_evict)) {}

void MemoryTier::MoveRecords(const std::vector<BlockIndex::Removed>& from,
                             std::vector<TierRecord>& to) {
  for (const BlockIndex::Removed& block : from) {
    for (const RecordKey& key : block.keys) {
      to.push_back(std::move(records_.extract(key).mapped()));
    }
  }
}

absl::Status MemoryTier::Put(std::span<const TierRecord> records) {
  std::vector<TierRecord> left;  // their memory is freed, or handed on, after the lock
  uint64_t refused = 0;
  for (const TierRecord& record : records) {
    const MutexLock lock(mutex_);
    if (index_.Use(record.key)) continue;
    std::vector<BlockIndex::Removed> evicted;
    if (AddToIndex(record, evicted)) {
      records_[record.key] = record;
    } else {
      ++refused;
    }
    MoveRecords(evicted, left);
  }
  if (on_evict_ != nullptr && !left.empty()) on_evict_(std::move(left));
  return Refused(refused, records.size());
}

std::optional<FoundRecord> MemoryTier::GetOne(const RecordKey& key) {
  const MutexLock lock(mutex_);
  const auto place = records_.find(key);
  if (place == records_.end()) return std::nullopt;
  index_.Use(key);
  return FoundIn(TierKind::kHost, place->second);
}

void MemoryTier::Use(std::span<const RecordKey> keys) {
  const MutexLock lock(mutex_);
  for (const RecordKey& key : keys) index_.Use(key);
}

absl::Status MemoryTier::Erase(std::span<const BlockHash> blocks) {
  std::vector<TierRecord> left;
  const MutexLock lock(mutex_);
  for (const BlockHash& block : blocks) MoveRecords(index_.DropBlock(block), left);
  return absl::OkStatus();
}

absl::Status MemoryTier::Drop(std::span<const RecordKey> keys) {
  std::vector<TierRecord> left;
  const MutexLock lock(mutex_);
  for (const RecordKey& key : keys) {
    const auto place = records_.find(key);
    if (place == records_.end()) continue;
    left.push_back(std::move(records_.extract(place).mapped()));
    index_.DropRecord(key);
  }
  return absl::OkStatus();
}

std::vector<TierRecord> MemoryTier::TakeOut(int64_t bytes) {
  std::vector<TierRecord> out;
  const MutexLock lock(mutex_);
  int64_t taken = 0;
  while (!records_.empty() && (out.empty() || taken < bytes)) {
    out.push_back(std::move(records_.extract(records_.begin()).mapped()));
    index_.DropRecord(out.back().key);
    taken += static_cast<int64_t>(out.back().bytes.size());
  }
  return out;
}

PeekedRecord MemoryTier::PeekOne(const RecordKey& key) {
  const MutexLock lock(mutex_);
  const auto place = records_.find(key);
  if (place == records_.end()) return {};
  return {.state = PeekedRecord::State::kThere, .bytes = place->second.bytes};
}

}  // namespace tandem::kv_store
