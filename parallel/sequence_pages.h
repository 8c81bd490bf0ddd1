#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/kv_view.h"
#include "kv_store/prefix_index.h"
#include "parallel/step_plan.h"

namespace tandem::parallel {

/// The pages of one running sequence: its block tables, what of them the ranks have not been told,
/// and its place in the prefix index, to which it adds each block that is full.
///
/// Invariant: it owns one reference to each block in its tables. Released before it is destroyed.
/// Thread safety: none.
class SequencePages {
 public:
  /// Takes what the index has of the beginning of `tokens`, at most `most` of them; 0: nothing, and
  /// then it adopts none of the index's blocks later, either.
  SequencePages(kv_store::PrefixIndex& index, const std::vector<core::KvLayerGroup>& groups,
                uint64_t tenant, std::span<const int32_t> tokens, int32_t most);

  /// Positions that were taken. Those in no full block count only until Copy.
  int32_t taken() const { return match_.tokens; }
  kv_store::MatchEnd end() const { return match_.end; }

  /// Gives the sequence its own copy of the block that it shares in part; without a free block, it
  /// gives up that part.
  void Copy(std::vector<BlockCopy>& copies);

  /// Blocks that it owns.
  int64_t held(size_t group) const { return held_[group]; }

  /// Leaves behind what the windows of positions from `start` on do not see, and gets blocks up to
  /// `end`. False if there are none: what it got so far stays, and it can be called again.
  bool Grow(int32_t start, int32_t end);

  /// What changed in the tables since the last call. [layer groups]
  std::vector<std::vector<BlockChange>> TakeChanges();

  /// Adds to the index what is full of the first `computed` of `tokens`; AddTail also the rest.
  void AddFull(std::span<const int32_t> tokens, int32_t computed);
  void AddTail(std::span<const int32_t> tokens, int32_t computed);
  /// Whether others will find here what this sequence computes.
  bool shares() const { return !apart_; }

  /// Gives all blocks back.
  void Release();

 private:
  void SetBlock(size_t group, size_t index, core::BlockId block);
  std::vector<core::BlockId> BlocksAt(size_t index) const;

  kv_store::PrefixIndex* index_;
  const std::vector<core::KvLayerGroup>* groups_;
  kv_store::PrefixMatch match_;
  kv_store::PrefixNode* place_ = nullptr;
  size_t added_ = 0;    // full blocks that stand in the index
  bool adopts_ = true;  // takes the index's blocks for its own where they hold the same
  bool apart_ = false;  // the index has its tokens in other blocks, which it does not take
  std::vector<std::vector<core::BlockId>> tables_;  // [layer groups]
  std::vector<size_t> left_behind_;                 // [layer groups] entries
  std::vector<int64_t> held_;                       // [layer groups]
  std::vector<std::vector<BlockChange>> changes_;   // [layer groups]
};

}  // namespace tandem::parallel
