#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/model/kv_view.h"
#include "kv_store/pages/prefix_index.h"
#include "parallel/plan/step_plan.h"

namespace tandem::parallel {

/// The pages of one running sequence: its block tables, what of them the ranks have not been told,
/// and its place in the prefix index, to which it adds each block that is full.
///
/// Invariant: it owns one reference to each block in its tables. Released before it is destroyed.
/// Thread safety: none.
class SequencePages {
 public:
  /// Takes what the index has of the beginning of `tokens`, at most `most` of them. 0: takes none
  /// of the index's blocks, now or later.
  SequencePages(kv_store::PrefixIndex& index, const std::vector<core::KvLayerGroup>& groups,
                uint64_t tenant, std::span<const int32_t> tokens, int32_t most);

  /// Positions that were taken. Those in no full block count only until Copy.
  int32_t taken() const { return match_.tokens; }
  kv_store::MatchEnd end() const { return match_.end; }

  /// Gives the sequence its own copy of the block that it shares in part; without a free block, it
  /// gives up that part.
  void Copy(std::vector<PageMove>& moves);

  /// How many of these fetched blocks bring the sequence farther than what it has taken; 0: none.
  /// All blocks that the position behind them sees must be among them or in its tables.
  /// first_block: the place in the sequence of the first of them.
  size_t Restorable(int32_t first_block, std::span<const FetchBlock> blocks) const;
  /// Takes these blocks of a fetch in place of the block that it shares in part: allocates their
  /// pages, has them loaded, and adds them to the index. False if there is no memory; then nothing
  /// has changed. tokens: of the sequence.
  bool Restore(FetchId fetch, int32_t first_block, std::span<const FetchBlock> blocks,
               std::span<const int32_t> tokens, std::vector<PageMove>& moves);

  /// Full blocks in its tables, those included that windows left behind.
  int32_t full_blocks() const { return static_cast<int32_t>(added_); }

  /// Its block table: [blocks], kNoBlock where its window left one behind.
  std::span<const core::BlockId> table(size_t group) const { return tables_[group]; }
  /// Blocks that it owns.
  int64_t held(size_t group) const { return held_[group]; }

  /// Gives back the blocks that positions from `start` on do not see, and gets blocks up to `end`.
  /// False if there are too few: it keeps those it got, and Grow may be called again.
  bool Grow(int32_t start, int32_t end);

  /// What changed in the tables since the last call. [layer groups]
  std::vector<std::vector<BlockChange>> TakeChanges();

  /// Adds to the index the full blocks of the first `computed` of `tokens`; AddTail adds the rest,
  /// too. saves: gets the blocks that have no records yet; null: no records are made.
  void AddFull(std::span<const int32_t> tokens, int32_t computed, std::vector<BlockSave>* saves);
  void AddTail(std::span<const int32_t> tokens, int32_t computed, std::vector<BlockSave>* saves);
  /// After AddTail: the saves of what is in no full block, if anything is, and of the newest state.
  void SaveTail(std::span<const int32_t> tokens, int32_t computed,
                std::vector<BlockSave>& saves) const;
  /// The newest state that was computed outlives this sequence and those that go on from it, as
  /// long as there is memory.
  void KeepBorder();
  /// Whether others will find here what this sequence computes.
  bool shares() const { return !apart_; }

  /// Gives all blocks back.
  void Release();

 private:
  void SetBlock(size_t group, size_t index, core::BlockId block);
  /// Gives back the blocks that positions from `start` on do not see.
  void LeaveBehind(size_t group, int64_t start);
  void Drop(size_t group, size_t index);
  std::vector<core::BlockId> BlocksAt(size_t index) const;
  bool Sees(size_t group, int32_t position, int32_t first_block,
            std::span<const FetchBlock> blocks) const;
  /// Adds the next full block to the index; false if it goes apart from now on.
  bool AddOne(std::span<const int32_t> tokens);
  void DropPart();
  /// Releases what a block that is shared in part was to be copied from.
  void ReleasePart();
  std::vector<core::BlockId> BlocksOfTail() const;
  /// Remembers a full block if there is a state behind it.
  void PassBorder(const BlockSave& save);
  void SaveBorder(std::vector<BlockSave>& saves) const;

  kv_store::PrefixIndex* index_;
  const std::vector<core::KvLayerGroup>* groups_;
  kv_store::PrefixMatch match_;
  kv_store::PrefixNode* place_ = nullptr;
  uint64_t tenant_ = 0;
  kv_store::BlockHash hash_{};       // of the last of these, or the tenant's:
  size_t added_ = 0;                 // full blocks that were added to the index or went apart
  std::optional<BlockSave> border_;  // the newest block with a state that was computed here
  bool adopts_ = true;  // takes the index's blocks for its own where they hold the same
  bool apart_ = false;  // the index has its tokens in other blocks, which it does not take
  std::vector<std::vector<core::BlockId>> tables_;  // [layer groups]
  // [layer groups] entries before which what is not seen was given back: by the window, and of
  // those that are seen besides (kv_store::GlobalBlocks)
  std::vector<size_t> left_behind_;
  std::vector<size_t> left_globals_;
  std::vector<int64_t> held_;                      // [layer groups]
  std::vector<std::vector<BlockChange>> changes_;  // [layer groups]
};

}  // namespace tandem::parallel
