#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "kv_store/base/block_hash.h"
#include "kv_store/base/shared_bytes.h"

namespace tandem::kv_store {

/// What a record is found by: a keyed hash of the fingerprint, the block, the KV head and the layer
/// group (record.h). It never names a rank.
using RecordKey = std::array<uint8_t, 32>;

/// A record with all that a tier needs to know of it. What its bytes mean is record.h's.
struct TierRecord {
  RecordKey key{};
  /// The block that it is a part of, with those of all KV heads and layer groups: they are of use
  /// together only.
  BlockHash block{};
  BlockHash before{};  // the block that this one stands on, or the tenant's (TenantHash)
  uint64_t tenant = 0;
  SharedBytes bytes;
};

/// Where a record came from.
enum class TierKind : uint8_t { kHost, kDisk, kRemote };
std::string_view TierName(TierKind kind);
inline uint8_t TierBit(TierKind kind) { return static_cast<uint8_t>(1U << static_cast<int>(kind)); }

struct FoundRecord {
  SharedBytes bytes;
  TierKind from = TierKind::kHost;
  // As they were put, so that a nearer tier can keep it too.
  BlockHash block{};
  BlockHash before{};
  uint64_t tenant = 0;
};
FoundRecord FoundIn(TierKind from, const TierRecord& record);
/// What a nearer tier keeps of what was found farther out.
TierRecord CopyOf(const RecordKey& key, const FoundRecord& found);

/// A record that a tier has, as it lists it.
struct ListedRecord {
  RecordKey key{};
  int64_t bytes = 0;
  uint8_t tiers = 0;  // which have a copy: a bit (1 << TierKind) each

  bool operator==(const ListedRecord&) const = default;
};

/// A block that a tier has records of.
struct ListedBlock {
  BlockHash block{};
  BlockHash before{};
  uint64_t tenant = 0;
  uint64_t last_use = 0;              // microseconds since 1970
  std::vector<ListedRecord> records;  // by key

  bool operator==(const ListedBlock&) const = default;
};

/// A copy of a record that is looked at where it lies.
struct PeekedRecord {
  enum class State : uint8_t {
    kMissing,
    kThere,
    kUnreadable,  // the tier has it, and cannot give its bytes back
  };
  State state = State::kMissing;
  SharedBytes bytes;  // as they were put; of kThere
};

struct TierStats {
  int64_t records = 0;
  int64_t blocks = 0;
  int64_t bytes = 0;        // of records
  int64_t bytes_limit = 0;  // 0: none
  uint64_t hits = 0;        // records got
  uint64_t misses = 0;      // records asked for that were not there
  uint64_t evicted = 0;     // records that made room
  uint64_t refused = 0;     // records that found no room: disk full, quota
  uint64_t dropped = 0;     // records that were damaged
};

/// A place where records are kept.
///
/// Two verbs say how something goes, here and in the whole program. `Erase` destroys content for
/// good, wherever copies of it lie: its bytes cannot be read again. `Drop` only lets go of what is
/// here: it can be found elsewhere, or computed again.
///
/// Records are immutable. A tier may drop any of them at any time; with a record it drops all of
/// its block and of the blocks that stand on it, those longest unused first. A tier that is in
/// trouble (a full disk, a peer that is gone) misses and refuses. It never blocks longer than its
/// deadline and never returns other bytes than were put. Thread safety: all functions may be called
/// from any thread.
class Tier {
 public:
  virtual ~Tier() = default;

  /// Keeps a batch. What is there already stays and counts as used. kResourceExhausted if not all
  /// found room (those that did are kept); other errors say what is wrong with the tier.
  virtual absl::Status Put(std::span<const TierRecord> records) = 0;

  /// [keys] Nothing where there is no such record. Counts as a use.
  virtual std::vector<std::optional<FoundRecord>> Get(std::span<const RecordKey> keys) = 0;

  /// [keys] Where Get would find it now; nothing where it would not. No use.
  virtual std::vector<std::optional<TierKind>> Where(std::span<const RecordKey> keys) = 0;

  /// [keys] Whether Get would find it now. No use.
  std::vector<bool> Exists(std::span<const RecordKey> keys);

  /// Counts as a use of those that are there: for tiers behind the one that answered.
  virtual void Use(std::span<const RecordKey> /*keys*/) {}

  /// When it returns, what was put before outlives a kill -9 of every process, if the tier outlives
  /// processes at all.
  virtual absl::Status Flush() = 0;

  /// Destroys all records of these blocks, so that nothing of them can be read again.
  virtual absl::Status Erase(std::span<const BlockHash> blocks) = 0;

  virtual TierStats Stats() = 0;
};

/// A tier that also tells what it has, for those who look after it.
class ListableTier : public Tier {
 public:
  /// The blocks behind `after` (from the first, if none), by hash; at most `most` of them, and none
  /// only at the end. No use. What comes and goes meanwhile may be listed or not.
  virtual absl::StatusOr<std::vector<ListedBlock>> List(const std::optional<BlockHash>& after,
                                                        size_t most) = 0;

  /// [keys] The copy that lies in the tier of this kind. No use; nothing is moved, and nothing
  /// dropped because it is damaged.
  virtual std::vector<PeekedRecord> Peek(TierKind tier, std::span<const RecordKey> keys) = 0;

  /// Drops these records in the tiers of this host, and nothing else: neither others of their
  /// blocks nor what stands on these. Copies on other hosts stay.
  virtual absl::Status Drop(std::span<const RecordKey> keys) = 0;
};

}  // namespace tandem::kv_store
