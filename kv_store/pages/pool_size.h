#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/base/status.h"
#include "core/model/kv_view.h"

namespace tandem::kv_store {

/// Blocks that cover `positions` positions.
inline constexpr int64_t BlocksFor(int64_t positions) {
  return (positions + core::kPageTokens - 1) / core::kPageTokens;
}

/// The first block whose pages the token at `position` sees in this group by the window or its
/// segment.
inline constexpr int64_t FirstSeenBlock(const core::KvLayerGroup& group, int64_t position) {
  if (group.segment > 0) {
    const int64_t start = position / group.segment * (group.segment / core::kPageTokens);
    return group.states ? std::max<int64_t>(0, start - 1) : start;
  }
  return group.window == 0 ? 0
                           : std::max<int64_t>(0, position - group.window + 1) / core::kPageTokens;
}

/// Blocks before that one that it sees besides, or a token behind it: [begin, end).
struct SeenGlobalBlocks {
  int64_t begin = 0;
  int64_t end = 0;
};
inline constexpr SeenGlobalBlocks GlobalBlocks(const core::KvLayerGroup& group, int64_t position) {
  const int64_t end = std::min(BlocksFor(group.global), FirstSeenBlock(group, position));
  if (group.global_reach == 0) return {0, end};
  const int64_t first = std::max<int64_t>(0, position - group.global_reach + 1);
  return {first < group.global ? std::min(first / core::kPageTokens, end) : end, end};
}

/// Whether the token at `position`, or one behind it, sees any of a block.
inline bool SeesBlock(const core::KvLayerGroup& group, int64_t position, int64_t block) {
  if (!group.Holds(block)) return false;
  const SeenGlobalBlocks global = GlobalBlocks(group, position);
  return block >= FirstSeenBlock(group, position) || (block >= global.begin && block < global.end);
}

/// Whether a sequence of `position` tokens has something in this block that the next one sees: a
/// state is there only once its segment has ended.
inline bool NeedsBlock(const core::KvLayerGroup& group, int64_t position, int64_t block) {
  return SeesBlock(group, position, block) &&
         (!group.states || (block + 1) * core::kPageTokens <= position);
}

/// Most blocks of this group that a sequence of `positions` positions holds at any time, if one
/// step computes up to `step_tokens` of them. A sliding window gives back what it left behind, so
/// there the number is bounded however long the sequence is: ceil((window - 1) / 64) + 1 +
/// ceil(global / 64), and the step's.
int64_t MostBlocksHeld(const core::KvLayerGroup& group, int64_t positions, int64_t step_tokens);

/// What a pool is made for.
struct PoolWish {
  int64_t sequences = 16;          // that should fit at once
  int64_t sequence_tokens = 8192;  // of this length
  int64_t step_tokens = 512;       // computed in one step
};

/// Blocks for the whole wish. [layer groups]
std::vector<int64_t> BlocksForWish(const core::KvGeometry& geometry, const PoolWish& wish);

/// Blocks that `bytes` give: first those of one sequence that is as long as can be, up to the
/// wish's, and the rest divided between the layer groups in the proportion of the wish. Each group
/// gets at least one. [layer groups]
std::vector<int64_t> BlocksForBytes(const core::KvGeometry& geometry, const PoolWish& wish,
                                    int64_t bytes);

/// kInvalidArgument where `bytes` are less than one block of every layer group takes.
absl::Status CheckPoolBytes(const core::KvGeometry& geometry, int64_t bytes);

/// The longest sequence, at most `context`, of which one fits into such a pool.
int64_t LongestSequence(const std::vector<core::KvLayerGroup>& groups,
                        const std::vector<int64_t>& blocks, int64_t step_tokens, int64_t context);

}  // namespace tandem::kv_store
