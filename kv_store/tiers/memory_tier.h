#pragma once

#include <functional>
#include <unordered_map>
#include <vector>

#include "kv_store/tiers/indexed_tier.h"

namespace tandem::kv_store {

/// Keeps records in this process's memory. Flush does nothing: they die with the process.
/// Thread safety: as Tier.
class MemoryTier : public IndexedTier {
 public:
  /// Told what leaves to make room (not what is erased), in the thread that called Put, under no
  /// lock.
  using OnEvict = std::function<void(std::vector<TierRecord>)>;

  explicit MemoryTier(TierLimits limits, OnEvict on_evict = nullptr);

  absl::Status Put(std::span<const TierRecord> records) override;
  void Use(std::span<const RecordKey> keys) override;
  absl::Status Flush() override { return absl::OkStatus(); }
  absl::Status Erase(std::span<const BlockHash> blocks) override;
  absl::Status Drop(std::span<const RecordKey> keys) override;

  /// Takes records out, at least `bytes` of them if there are as many; none are left when it
  /// returns none.
  std::vector<TierRecord> TakeOut(int64_t bytes);

 private:
  std::optional<FoundRecord> GetOne(const RecordKey& key) override;
  PeekedRecord PeekOne(const RecordKey& key) override;
  /// Moves the records of blocks that have left the index.
  void MoveRecords(const std::vector<BlockIndex::Removed>& from, std::vector<TierRecord>& to)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const OnEvict on_evict_;
  std::unordered_map<RecordKey, TierRecord, BlockHashBits> records_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tandem::kv_store
