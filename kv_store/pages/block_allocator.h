#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/model/kv_view.h"

namespace tandem::kv_store {

/// The coordinator's record of the logical blocks of one layer group: who is free, and how many
/// owners each of the others has.
///
/// Invariants: a block is in the free list exactly when it has no owner; `used() + free()` is the
/// size of the pool. Releasing or sharing a block that has no owner is a bug and ends the program,
/// since two sequences would silently write into one another's pages.
/// Thread safety: none; the step loop owns it.
class BlockAllocator {
 public:
  /// blocks >= 0.
  explicit BlockAllocator(int64_t blocks);

  /// A block with one owner, or nothing if none is free.
  std::optional<core::BlockId> Allocate();
  /// One owner more.
  void Share(core::BlockId block);
  /// One owner less; true if that was the last and the block is free again.
  bool Release(core::BlockId block);

  int32_t owners(core::BlockId block) const { return owners_[static_cast<size_t>(block)]; }
  int64_t blocks() const { return static_cast<int64_t>(owners_.size()); }
  int64_t free() const { return static_cast<int64_t>(free_.size()); }
  int64_t used() const { return blocks() - free(); }

 private:
  std::vector<int32_t> owners_;      // [blocks]
  std::vector<core::BlockId> free_;  // a stack: the block freed last is given out first, still warm
};

}  // namespace tandem::kv_store
