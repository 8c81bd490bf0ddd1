#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/mutex.h"
#include "kv_store/records/tier.h"
#include "kv_store/records/write_behind_queue.h"
#include "kv_store/tiers/memory_tier.h"

namespace tandem::kv_store {

/// When what is put in host memory goes on to the tiers behind it.
enum class WritePolicy : uint8_t {
  kThrough,  // before Put returns
  kBack,     // soon after, in batches; Flush waits for it
  kOnEvict,  // when host memory makes room, or ends: a kill loses what is there only
};
/// "through", "back", "on-evict"; nothing for another text.
std::optional<WritePolicy> ParseWritePolicy(std::string_view text);
std::string_view WritePolicyName(WritePolicy policy);

struct TieredStoreOptions {
  TierLimits host;
  WritePolicy policy = WritePolicy::kBack;
  /// Of records that wait to be written; what is more is written by whoever puts it.
  int64_t queue_bytes = int64_t{256} << 20;
};

/// Host memory before other tiers: finds in the nearest that has it, and keeps what was found
/// farther out in those before it. Erase erases everywhere, also what is just on its way.
///
/// As a whole it has the records, limits and evictions of the tier that has most. Flush says what
/// could not be written since the last Flush. Thread safety: as Tier.
class TieredStore : public ListableTier {
 public:
  /// A tier behind host memory.
  struct Behind {
    TierKind kind = TierKind::kDisk;
    std::unique_ptr<ListableTier> tier;
  };

  /// behind: the nearest first; may be none.
  TieredStore(const TieredStoreOptions& options, std::vector<Behind> behind);
  ~TieredStore() override;

  absl::Status Put(std::span<const TierRecord> records) override;
  std::vector<std::optional<FoundRecord>> Get(std::span<const RecordKey> keys) override;
  std::vector<std::optional<TierKind>> Where(std::span<const RecordKey> keys) override;
  void Use(std::span<const RecordKey> keys) override;
  absl::Status Flush() override;
  absl::Status Erase(std::span<const BlockHash> blocks) override;
  absl::Status Drop(std::span<const RecordKey> keys) override;
  TierStats Stats() override;
  absl::StatusOr<std::vector<ListedBlock>> List(const std::optional<BlockHash>& after,
                                                size_t most) override;
  std::vector<PeekedRecord> Peek(TierKind tier, std::span<const RecordKey> keys) override;

  std::vector<std::pair<TierKind, TierStats>> StatsByTier();

 private:
  absl::Status PutBehind(std::span<const TierRecord> records);
  /// Leaves records to the queue, or writes them if too many wait.
  void WriteLater(std::span<const TierRecord> records);

  const TieredStoreOptions options_;
  const std::vector<Behind> behind_;
  MemoryTier host_;

  // Held exclusively while erasing, so that nobody brings back what he found before.
  SharedMutex erasing_;

  std::atomic<uint64_t> hits_ = 0;
  std::atomic<uint64_t> misses_ = 0;

  WriteBehindQueue queue_;
};

}  // namespace tandem::kv_store
