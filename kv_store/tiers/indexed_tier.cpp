#include "kv_store/tiers/indexed_tier.h"

#include "core/base/counted.h"

namespace tandem::kv_store {

std::vector<std::optional<FoundRecord>> IndexedTier::Get(std::span<const RecordKey> keys) {
  std::vector<std::optional<FoundRecord>> found;
  found.reserve(keys.size());
  for (const RecordKey& key : keys) {
    found.push_back(GetOne(key));
    const MutexLock lock(mutex_);
    ++(found.back() ? counts_.hits : counts_.misses);
  }
  return found;
}

std::vector<std::optional<TierKind>> IndexedTier::Where(std::span<const RecordKey> keys) {
  std::vector<std::optional<TierKind>> where(keys.size());
  const MutexLock lock(mutex_);
  for (size_t i = 0; i < keys.size(); ++i) {
    if (index_.Has(keys[i])) where[i] = kind_;
  }
  return where;
}

TierStats IndexedTier::Stats() {
  const MutexLock lock(mutex_);
  TierStats stats = counts_;
  stats.records = index_.records();
  stats.blocks = index_.blocks();
  stats.bytes = index_.bytes();
  stats.bytes_limit = index_.limits().bytes;
  return stats;
}

absl::StatusOr<std::vector<ListedBlock>> IndexedTier::List(const std::optional<BlockHash>& after,
                                                           size_t most) {
  const MutexLock lock(mutex_);
  return index_.List(after, most, kind_);
}

std::vector<PeekedRecord> IndexedTier::Peek(TierKind tier, std::span<const RecordKey> keys) {
  std::vector<PeekedRecord> peeked(keys.size());
  if (tier != kind_) return peeked;
  for (size_t i = 0; i < keys.size(); ++i) peeked[i] = PeekOne(keys[i]);
  return peeked;
}

bool IndexedTier::AddToIndex(const TierRecord& record, std::vector<BlockIndex::Removed>& evicted) {
  const bool added = index_.Add(record, evicted);
  for (const BlockIndex::Removed& block : evicted) counts_.evicted += block.keys.size();
  return added;
}

absl::Status IndexedTier::Refused(uint64_t refused, size_t of) {
  if (refused == 0) return absl::OkStatus();
  const MutexLock lock(mutex_);
  counts_.refused += refused;
  return ResourceExhausted("{}: {} of {} found no room in {} bytes ({} of a tenant); give it more",
                           name_, refused, Counted(static_cast<int64_t>(of), "record"),
                           index_.limits().bytes, index_.limits().tenant_bytes);
}

}  // namespace tandem::kv_store
