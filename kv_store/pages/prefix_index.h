#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "core/model/kv_view.h"
#include "kv_store/base/block_hash.h"
#include "kv_store/pages/block_allocator.h"

namespace tandem::kv_store {

/// What ended a match.
enum class MatchEnd : uint8_t {
  kAll,      // nothing: all that was asked for was there
  kNothing,  // no token was known
  kDiffers,  // the tokens go on differently from what is known
  kEvicted,  // the rest was there once, and made room for others
  kNoState,  // the pages of more are there, but not the state that they need
};

/// A node of the tree, for its users a place between two blocks.
struct PrefixNode;

/// What PrefixIndex::Take found. The taker owns a reference to every block in it and stands at
/// `place`.
struct PrefixMatch {
  int32_t tokens = 0;  // positions whose pages stand, `copied` included
  MatchEnd end = MatchEnd::kNothing;
  PrefixNode* place = nullptr;  // behind the full blocks
  /// [layer groups][full blocks]; kNoBlock where the group has left a block behind or has nothing.
  std::vector<std::vector<core::BlockId>> tables;
  /// Of these, tokens at the end that are in no full block: their pages are in `copy_from` and must
  /// be copied before anything is written behind them.
  int32_t copied = 0;
  std::vector<core::BlockId> copy_from;  // [layer groups] if copied > 0; kNoBlock of states
};

/// What PrefixIndex::Known found.
struct PrefixKnown {
  int32_t tokens = 0;       // positions whose pages stand, as Take would find them
  int32_t full_blocks = 0;  // among them
  BlockHash hash{};         // of the last of these, or of the tenant
};

/// The coordinator's record of all blocks: which are free, which sequences hold, and which are kept
/// because a later request may begin with the same tokens.
///
/// What is kept stands in a tree of blocks of 64 tokens, a root a tenant. A node has a block in
/// each layer group, or kNoBlock where a sliding window or segment left it behind, there is no
/// state, or it was evicted. Besides
/// full nodes there are tails, leaves of fewer tokens: the end of a prompt or a conversation. Only
/// the positions that a node's tokens name are claimed; behind those of a tail its first owner may
/// still write, so whoever takes part of a block takes a copy.
///
/// Every block has reference counts in one place: the tree holds one for each of its blocks, each
/// sequence one for each of its own. A block that only the tree holds is idle: it counts as free,
/// since it is evicted when one is needed: the longest unused first, in full-attention groups
/// leaves before what they stand on, in groups that leave blocks behind whatever is idle.
///
/// Invariants: no node's tokens are the beginning of a sibling's; a block is in one node at most;
/// in a full-attention group, whoever holds a node's block holds those of all nodes before it, so
/// what stands on an idle node is idle. Time: O(log n) a block, and the comparison of its tokens.
/// Hashes never decide a match, the tokens do. Thread safety: none; the step loop owns it.
class PrefixIndex {
 public:
  /// groups, blocks: [layer groups]; blocks is the size of the pool.
  PrefixIndex(std::vector<core::KvLayerGroup> groups, const std::vector<int64_t>& blocks);
  ~PrefixIndex();

  /// A block with one owner, evicting an idle one if none is free; nothing if none is idle either.
  std::optional<core::BlockId> Allocate(size_t group);
  /// One owner more, or less.
  void Share(size_t group, core::BlockId block);
  void Release(size_t group, core::BlockId block);
  /// Release; what only the tree holds then goes, unless it was kept.
  void Forget(size_t group, core::BlockId block);
  /// Has a block of the tree outlive Forget.
  void Keep(size_t group, core::BlockId block);

  /// What Take would find; changes nothing.
  PrefixKnown Known(uint64_t tenant, std::span<const int32_t> tokens, int32_t most) const;

  /// The longest known beginning of `tokens` of at most `most` of them whose pages are all there
  /// that the next position sees.
  PrefixMatch Take(uint64_t tenant, std::span<const int32_t> tokens, int32_t most);
  /// The end of a match that is not used: releases its blocks and leaves its place.
  void GiveBack(const PrefixMatch& match);

  /// The beginning of a tenant's tree, for a sequence that takes nothing. A place stays until it is
  /// left.
  PrefixNode* Enter(uint64_t tenant);
  void Leave(PrefixNode* place);

  /// Adds the full block of 64 `tokens` behind `place` and moves the caller's place behind it.
  /// blocks: [layer groups] the caller's, kNoBlock where its window left them behind. If the tree
  /// has these tokens already, the caller's blocks are released and replaced in `blocks` by the
  /// tree's; or, if it does not `adopt` those, nothing is done and null returned.
  PrefixNode* Extend(PrefixNode* place, std::span<const int32_t> tokens,
                     std::span<core::BlockId> blocks, bool adopt);
  /// Adds fewer than 64 tokens behind `place`, unless they are known. blocks: [layer groups];
  /// kNoBlock of states.
  void AddTail(PrefixNode* place, std::span<const int32_t> tokens,
               std::span<const core::BlockId> blocks);

  /// The hash of the block before a place, or of its tenant.
  static const BlockHash& HashAt(const PrefixNode* place);
  /// Notes that the block before a place has records; false if that was known.
  static bool MarkSaved(PrefixNode* place);

  /// Evicts all that is idle.
  void Clear();

  size_t group_count() const { return groups_.size(); }
  int64_t blocks(size_t group) const { return pools_[group].blocks(); }
  /// Blocks that only the tree holds.
  int64_t idle(size_t group) const { return idle_[group]; }
  /// Blocks that sequences hold.
  int64_t used(size_t group) const { return pools_[group].used() - idle_[group]; }
  /// Blocks that Allocate can give.
  int64_t available(size_t group) const { return pools_[group].free() + idle_[group]; }

  uint64_t blocks_taken() const { return blocks_taken_; }
  uint64_t blocks_evicted() const { return blocks_evicted_; }
  int64_t nodes() const { return nodes_; }

 private:
  struct Path;

  bool full_attention(size_t group) const { return !groups_[group].leaves_behind(); }
  void FindPartial(const PrefixNode& parent, std::span<const int32_t> tokens, Path& path) const;
  Path FindPath(PrefixNode* root, std::span<const int32_t> tokens, int32_t most) const;
  void CutToWindows(Path& path) const;
  MatchEnd EndOf(const Path& path, std::span<const int32_t> tokens, int32_t most) const;

  PrefixNode* Add(PrefixNode* parent, std::span<const int32_t> tokens,
                  std::span<const core::BlockId> blocks);
  void Remove(PrefixNode* node);
  void RemoveIfEmpty(PrefixNode* node);
  void RemoveTailThatBegins(PrefixNode* parent, std::span<const int32_t> tokens);
  void Hold(size_t group, PrefixNode* node, core::BlockId block);
  void Drop(size_t group, PrefixNode* node);
  bool Idle(size_t group, const PrefixNode& node) const;
  /// Puts a node into the order of eviction, or takes it out, as its state says.
  void Reorder(size_t group, PrefixNode* node);
  void ReorderFullAttention(PrefixNode* node);
  bool Evict(size_t group);
  void RememberEvicted(const BlockHash& hash);

  std::vector<core::KvLayerGroup> groups_;
  std::vector<BlockAllocator> pools_;                       // [layer groups]
  std::vector<std::vector<PrefixNode*>> holders_;           // [layer groups][blocks] or null
  std::vector<int64_t> idle_;                               // [layer groups]
  std::vector<std::map<uint64_t, PrefixNode*>> evictable_;  // [layer groups] by last use
  std::unordered_map<uint64_t, std::unique_ptr<PrefixNode>> roots_;  // by tenant
  std::unordered_set<BlockHash, BlockHashBits> evicted_;
  std::deque<BlockHash> evicted_order_;  // of evicted_, oldest first
  size_t most_remembered_ = 0;
  uint64_t clock_ = 0;  // counts releases; orders them
  int64_t nodes_ = 0;   // without roots
  uint64_t blocks_taken_ = 0;
  uint64_t blocks_evicted_ = 0;
};

}  // namespace tandem::kv_store
