#pragma once

#include <functional>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "kv_store/records/tier.h"
#include "kv_store/tiers/block_index.h"

namespace tandem::kv_store {

/// Keeps records in this process's memory. Flush does nothing: they die with the process.
/// Thread safety: as Tier.
class MemoryTier : public Tier {
 public:
  /// Told what leaves to make room (not what is erased), in the thread that called Put, under no
  /// lock.
  using OnEvict = std::function<void(std::vector<TierRecord>)>;

  explicit MemoryTier(TierLimits limits, OnEvict on_evict = nullptr);

  absl::Status Put(std::span<const TierRecord> records) override;
  std::vector<std::optional<FoundRecord>> Get(std::span<const RecordKey> keys) override;
  std::vector<bool> Exists(std::span<const RecordKey> keys) override;
  void Use(std::span<const RecordKey> keys) override;
  absl::Status Flush() override { return absl::OkStatus(); }
  absl::Status Erase(std::span<const BlockHash> blocks) override;
  TierStats Stats() override;
  absl::StatusOr<std::vector<ListedBlock>> List(const std::optional<BlockHash>& after,
                                                size_t most) override;
  std::vector<PeekedRecord> Peek(TierKind tier, std::span<const RecordKey> keys) override;

  /// Takes records out, at least `bytes` of them if there are as many; none are left when it
  /// returns none.
  std::vector<TierRecord> TakeOut(int64_t bytes);

 private:
  const OnEvict on_evict_;
  std::mutex mutex_;  // guards all below
  BlockIndex book_;
  std::unordered_map<RecordKey, TierRecord, BlockHashBits> records_;
  TierStats counts_;  // what is counted; sizes are the book's
};

}  // namespace tandem::kv_store
