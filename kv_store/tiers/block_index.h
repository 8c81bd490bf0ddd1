#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kv_store/records/tier.h"

namespace tandem::kv_store {

/// How much a tier may keep.
struct TierLimits {
  int64_t bytes = 0;         // of all records; 0: none
  int64_t tenant_bytes = 0;  // of one tenant's records; 0: none
};

/// A tier's index of its blocks: which records belong to each, which block stands on which, when
/// each was used last, and how much there is, in all and of each tenant. Decides what makes room.
///
/// A block that nothing stands on is a leaf. Room is made by leaves only, the longest unused first,
/// so that what is kept is always reachable from its beginning; a tenant over its quota makes
/// room from its own. A block goes with all its records.
///
/// Invariants: a block has records; every record is of one block; `bytes` is their sum.
/// Time: O(log blocks) a call and a removed block. Thread safety: none.
class BlockIndex {
 public:
  /// A block that left the index, with the keys of its records.
  struct Removed {
    BlockHash block{};
    std::vector<RecordKey> keys;
  };

  /// Uses are counted from `clock` upwards, in microseconds since 1970 where these are more, so
  /// that they are in order whatever the system's clock does.
  explicit BlockIndex(TierLimits limits, uint64_t clock = 1) : limits_(limits), clock_(clock) {}

  /// Adds a record that is not in the index, and moves to `evicted` the blocks that must go for it.
  /// False if there is no room even so: it would take the block itself, or what it stands on.
  bool Add(const TierRecord& record, std::vector<Removed>& evicted);
  /// Adds a record whatever the limits, as one that is there already: used last at `last_use`.
  void Restore(const RecordKey& key, const BlockHash& block, const BlockHash& before,
               uint64_t tenant, int64_t bytes, uint64_t last_use);
  /// Makes room until the limits hold.
  std::vector<Removed> Shrink();

  bool Has(const RecordKey& key) const { return records_.contains(key); }
  /// Counts as a use of the record's block; false if there is no such record.
  bool Use(const RecordKey& key);
  /// Takes one record out, and its block if that was the last.
  void DropRecord(const RecordKey& key);
  /// Takes a block out and all that stand on it.
  std::vector<Removed> DropBlock(const BlockHash& block);

  struct Place {
    BlockHash block{};
    BlockHash before{};
    uint64_t tenant = 0;
    uint64_t last_use = 0;
  };
  /// Where a record stands.
  std::optional<Place> Find(const RecordKey& key) const;
  /// Of all records, in no order.
  std::vector<RecordKey> Keys() const;
  /// The first `most` blocks behind `after`, by hash; their records lie in `tier`. Time: O(blocks).
  std::vector<ListedBlock> List(const std::optional<BlockHash>& after, size_t most,
                                TierKind tier) const;
  /// When a block was used last.
  std::optional<uint64_t> LastUse(const BlockHash& block) const;

  int64_t bytes() const { return bytes_; }
  int64_t bytes_of(uint64_t tenant) const;
  int64_t records() const { return static_cast<int64_t>(records_.size()); }
  int64_t blocks() const { return static_cast<int64_t>(blocks_.size()); }
  const TierLimits& limits() const { return limits_; }
  uint64_t clock() const { return clock_; }

 private:
  struct Block {
    BlockHash hash{};
    BlockHash before{};
    uint64_t tenant = 0;
    uint64_t last_use = 0;
    int64_t bytes = 0;
    std::vector<RecordKey> keys;
  };
  struct Record {
    Block* block = nullptr;
    int64_t bytes = 0;
  };
  using Leaves = std::set<std::pair<uint64_t, Block*>>;  // by last use
  struct Tenant {
    int64_t bytes = 0;
    int64_t blocks = 0;
    Leaves leaves;
  };

  bool IsLeaf(const Block& block) const { return !standing_on_.contains(block.hash); }
  Block& BlockOf(const BlockHash& hash, const BlockHash& before, uint64_t tenant,
                 uint64_t last_use);
  void AddTo(Block& block, const RecordKey& key, int64_t bytes);
  void SetLastUse(Block& block, uint64_t last_use);
  uint64_t Tick();
  void Enlist(Block& block);
  void Delist(Block& block);
  /// The longest unused leaf of these that is not `kept`, or null.
  static Block* Oldest(const Leaves& leaves, const Block* kept);
  bool TenantFits(uint64_t tenant, int64_t wanted) const;
  bool AllFits(int64_t wanted) const;
  Removed Remove(Block& block);

  TierLimits limits_;
  uint64_t clock_;
  int64_t bytes_ = 0;
  std::unordered_map<BlockHash, Block, BlockHashBits> blocks_;
  std::unordered_map<RecordKey, Record, BlockHashBits> records_;
  // The blocks that stand on one, whether that one is in the index or not.
  std::unordered_map<BlockHash, std::vector<BlockHash>, BlockHashBits> standing_on_;
  Leaves leaves_;
  std::unordered_map<uint64_t, Tenant> tenants_;
};

}  // namespace tandem::kv_store
