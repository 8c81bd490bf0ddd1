#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/base/mutex.h"
#include "kv_store/peers/peer_tier.h"
#include "kv_store/records/tier.h"
#include "kv_store/records/write_behind_queue.h"
#include "kv_store/tiers/tiered_store.h"

namespace tandem::kv_store {

struct PeeredStoreOptions {
  /// With kThrough the second copy is there before Put returns, with the others it follows soon:
  /// kOnEvict spares this host's disk only.
  WritePolicy policy = WritePolicy::kBack;
  int64_t queue_bytes = int64_t{256} << 20;  // of records that wait for a peer
  std::chrono::milliseconds patience{1500};  // of Put for room in the queue
  std::chrono::milliseconds drain{10'000};   // of Flush and Erase for what is on its way
};

/// The tiers of this host before those of others. A record that a peer had is kept here too, so a
/// new host takes over its share. Where peers keep copies, a record that is put goes to one of them
/// as well; Flush waits for that, and says which did not get there since the last Flush.
///
/// Erase erases here and at all peers, and then does so again: a record that was on its way from
/// one host to another at first has arrived by then. After OK no host has any of it. Stats tells
/// the records and limits of this host's tiers. Thread safety: as Tier.
class PeeredStore : public ListableTier {
 public:
  /// Both must outlive it.
  PeeredStore(ListableTier& local, PeerTier& peers, const PeeredStoreOptions& options);

  absl::Status Put(std::span<const TierRecord> records) override;
  std::vector<std::optional<FoundRecord>> Get(std::span<const RecordKey> keys) override;
  std::vector<std::optional<TierKind>> Where(std::span<const RecordKey> keys) override;
  void Use(std::span<const RecordKey> keys) override;
  absl::Status Flush() override;
  absl::Status Erase(std::span<const BlockHash> blocks) override;
  TierStats Stats() override;
  /// Erase of this host alone.
  absl::Status EraseHere(std::span<const BlockHash> blocks);
  // Of this host alone.
  absl::Status Drop(std::span<const RecordKey> keys) override;
  absl::StatusOr<std::vector<ListedBlock>> List(const std::optional<BlockHash>& after,
                                                size_t most) override {
    return local_.List(after, most);
  }
  std::vector<PeekedRecord> Peek(TierKind tier, std::span<const RecordKey> keys) override {
    return local_.Peek(tier, keys);
  }

 private:
  using Clock = std::chrono::steady_clock;

  void Keep(std::span<const RecordKey> keys, const std::vector<std::optional<FoundRecord>>& found,
            uint64_t erasures);
  void CopyLater(std::span<const TierRecord> records);
  void UseLater(std::span<const RecordKey> keys);
  /// kDeadlineExceeded if not all that was queued is done in time.
  absl::Status Drain();

  const PeeredStoreOptions options_;
  ListableTier& local_;
  PeerTier& peers_;

  // Held exclusively while erasing, so that nobody brings back what he found before.
  SharedMutex erasing_;
  uint64_t erasures_ ABSL_GUARDED_BY(erasing_) = 0;

  Mutex used_mutex_;
  std::vector<RecordKey> used_ ABSL_GUARDED_BY(used_mutex_);  // to be told to peers

  WriteBehindQueue queue_;  // a mark: something was used
};

}  // namespace tandem::kv_store
