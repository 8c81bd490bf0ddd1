#include "kv_store/tiers/memory_tier.h"

#include <utility>

namespace tandem::kv_store {

MemoryTier::MemoryTier(TierLimits limits, OnEvict on_evict)
    : on_evict_(std::move(on_evict)), book_(limits) {}

absl::Status MemoryTier::Put(std::span<const TierRecord> records) {
  std::vector<TierRecord> left;  // their memory is freed, or handed on, after the lock
  int64_t refused = 0;
  for (const TierRecord& record : records) {
    const std::lock_guard lock(mutex_);
    if (book_.Use(record.key)) continue;
    std::vector<BlockIndex::Removed> evicted;
    if (book_.Add(record, evicted)) {
      records_[record.key] = record;
    } else {
      ++refused;
      ++counts_.refused;
    }
    for (const BlockIndex::Removed& block : evicted) {
      for (const RecordKey& key : block.keys) {
        left.push_back(std::move(records_.extract(key).mapped()));
        ++counts_.evicted;
      }
    }
  }
  if (on_evict_ != nullptr && !left.empty()) on_evict_(std::move(left));
  if (refused == 0) return absl::OkStatus();
  return ResourceExhausted(
      "KV host memory: {} of {} records found no room in {} bytes ({} of a tenant); give it more",
      refused, records.size(), book_.limits().bytes, book_.limits().tenant_bytes);
}

std::vector<std::optional<FoundRecord>> MemoryTier::Get(std::span<const RecordKey> keys) {
  std::vector<std::optional<FoundRecord>> found(keys.size());
  for (size_t i = 0; i < keys.size(); ++i) {
    const std::lock_guard lock(mutex_);
    const auto place = records_.find(keys[i]);
    if (place == records_.end()) {
      ++counts_.misses;
      continue;
    }
    book_.Use(keys[i]);
    ++counts_.hits;
    const TierRecord& kept = place->second;
    found[i] = {.bytes = kept.bytes,
                .from = TierKind::kHost,
                .block = kept.block,
                .before = kept.before,
                .tenant = kept.tenant};
  }
  return found;
}

std::vector<bool> MemoryTier::Exists(std::span<const RecordKey> keys) {
  std::vector<bool> exists(keys.size());
  const std::lock_guard lock(mutex_);
  for (size_t i = 0; i < keys.size(); ++i) exists[i] = book_.Has(keys[i]);
  return exists;
}

void MemoryTier::Use(std::span<const RecordKey> keys) {
  const std::lock_guard lock(mutex_);
  for (const RecordKey& key : keys) book_.Use(key);
}

absl::Status MemoryTier::Erase(std::span<const BlockHash> blocks) {
  std::vector<TierRecord> left;
  const std::lock_guard lock(mutex_);
  for (const BlockHash& block : blocks) {
    for (const BlockIndex::Removed& removed : book_.DropBlock(block)) {
      for (const RecordKey& key : removed.keys) {
        left.push_back(std::move(records_.extract(key).mapped()));
      }
    }
  }
  return absl::OkStatus();
}

std::vector<TierRecord> MemoryTier::TakeOut(int64_t bytes) {
  std::vector<TierRecord> out;
  const std::lock_guard lock(mutex_);
  int64_t taken = 0;
  while (!records_.empty() && (out.empty() || taken < bytes)) {
    out.push_back(std::move(records_.extract(records_.begin()).mapped()));
    book_.DropRecord(out.back().key);
    taken += static_cast<int64_t>(out.back().bytes.size());
  }
  return out;
}

TierStats MemoryTier::Stats() {
  const std::lock_guard lock(mutex_);
  TierStats stats = counts_;
  stats.records = book_.records();
  stats.blocks = book_.blocks();
  stats.bytes = book_.bytes();
  stats.bytes_limit = book_.limits().bytes;
  return stats;
}

absl::StatusOr<std::vector<ListedBlock>> MemoryTier::List(const std::optional<BlockHash>& after,
                                                          size_t most) {
  const std::lock_guard lock(mutex_);
  return book_.List(after, most, TierKind::kHost);
}

std::vector<PeekedRecord> MemoryTier::Peek(TierKind tier, std::span<const RecordKey> keys) {
  std::vector<PeekedRecord> peeked(keys.size());
  if (tier != TierKind::kHost) return peeked;
  for (size_t i = 0; i < keys.size(); ++i) {
    const std::lock_guard lock(mutex_);
    const auto place = records_.find(keys[i]);
    if (place == records_.end()) continue;
    peeked[i] = {.state = PeekedRecord::State::kThere, .bytes = place->second.bytes};
  }
  return peeked;
}

}  // namespace tandem::kv_store
