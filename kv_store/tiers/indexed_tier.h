#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/base/mutex.h"
#include "kv_store/records/tier.h"
#include "kv_store/tiers/block_index.h"

namespace tandem::kv_store {

/// What tiers that know their records by a BlockIndex have in common. Thread safety: as Tier.
class IndexedTier : public ListableTier {
 public:
  std::vector<std::optional<FoundRecord>> Get(std::span<const RecordKey> keys) override;
  std::vector<std::optional<TierKind>> Where(std::span<const RecordKey> keys) override;
  TierStats Stats() override;
  absl::StatusOr<std::vector<ListedBlock>> List(const std::optional<BlockHash>& after,
                                                size_t most) override;
  std::vector<PeekedRecord> Peek(TierKind tier, std::span<const RecordKey> keys) override;

 protected:
  /// name: begins its errors.
  IndexedTier(TierKind kind, std::string name, const TierLimits& limits)
      : index_(limits), kind_(kind), name_(std::move(name)) {}

  const std::string& name() const { return name_; }

  virtual std::optional<FoundRecord> GetOne(const RecordKey& key) = 0;
  virtual PeekedRecord PeekOne(const RecordKey& key) = 0;

  /// Adds a record to the index, and moves to `evicted` the blocks that must go.
  bool AddToIndex(const TierRecord& record, std::vector<BlockIndex::Removed>& evicted)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  /// Counts records that found no room; kResourceExhausted, or OK if there are none.
  absl::Status Refused(uint64_t refused, size_t of);

  Mutex mutex_;
  BlockIndex index_ ABSL_GUARDED_BY(mutex_);
  TierStats counts_ ABSL_GUARDED_BY(mutex_);  // what is counted; sizes are the index's

 private:
  const TierKind kind_;
  const std::string name_;
};

}  // namespace tandem::kv_store
