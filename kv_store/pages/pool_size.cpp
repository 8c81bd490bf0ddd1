#include "kv_store/pages/pool_size.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/base/counted.h"

namespace tandem::kv_store {
int64_t MostBlocksHeld(const core::KvLayerGroup& group, int64_t positions, int64_t step_tokens) {
  const int64_t all = BlocksFor(positions);
  if (group.segment > 0) {
    // A step begins anywhere in its segment, and writes the state of each segment that it ends.
    // Those of the step before are held until it is committed.
    const int64_t step = std::min(step_tokens, positions);
    if (!group.states) {
      return std::min(all, BlocksFor(std::max<int64_t>(group.segment - 1, step) + step));
    }
    return std::min(positions / group.segment, (group.segment - 1 + 2 * step) / group.segment + 1);
  }
  if (group.window == 0) return all;
  // A step that starts at p reads back to p - window + 1 and writes up to p + step_tokens - 1, and
  // the blocks of the step before are held until it is committed. Such a run touches one block more
  // than its length says, where it begins late in a block.
  const int64_t step = std::min(step_tokens, positions);
  const int64_t run = std::max<int64_t>(group.window - 1, step) + step;
  return std::min(all, BlocksFor(run - 1) + 1 + BlocksFor(group.global));
}

std::vector<int64_t> BlocksForWish(const core::KvGeometry& geometry, const PoolWish& wish) {
  std::vector<int64_t> blocks;
  for (const core::KvLayerGroup& group : geometry.groups) {
    int64_t held = MostBlocksHeld(group, wish.sequence_tokens, wish.step_tokens);
    // Those that are kept; there is none but at the end of a segment.
    if (group.states) {
      held += wish.sequence_tokens / std::max<int64_t>(group.state_interval, group.segment) + 1;
    }
    blocks.push_back(wish.sequences * std::max<int64_t>(held, 1));
  }
  return blocks;
}

namespace {

/// What one sequence of so many tokens needs. [layer groups]
std::vector<int64_t> BlocksForOne(const core::KvGeometry& geometry, int64_t tokens, int64_t step) {
  std::vector<int64_t> blocks;
  for (const core::KvLayerGroup& group : geometry.groups) {
    blocks.push_back(std::max<int64_t>(MostBlocksHeld(group, tokens, step), 1));
  }
  return blocks;
}

double BytesOf(const core::KvGeometry& geometry, const std::vector<int64_t>& blocks) {
  double bytes = 0;
  for (size_t g = 0; g < blocks.size(); ++g) {
    bytes += static_cast<double>(blocks[g]) * static_cast<double>(geometry.BlockBytes(g));
  }
  return bytes;
}

/// Those of the longest sequence that fits, up to that of the wish.
std::vector<int64_t> BlocksForLongest(const core::KvGeometry& geometry, const PoolWish& wish,
                                      int64_t bytes) {
  int64_t low = 1;
  int64_t high = wish.sequence_tokens;
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    const bool fits = BytesOf(geometry, BlocksForOne(geometry, middle, wish.step_tokens)) <=
                      static_cast<double>(bytes);
    (fits ? low : high) = fits ? middle : middle - 1;
  }
  return BlocksForOne(geometry, low, wish.step_tokens);
}

}  // namespace

std::vector<int64_t> BlocksForBytes(const core::KvGeometry& geometry, const PoolWish& wish,
                                    int64_t bytes) {
  std::vector<int64_t> blocks = BlocksForLongest(geometry, wish, bytes);
  const double rest = std::max(0.0, static_cast<double>(bytes) - BytesOf(geometry, blocks));
  const std::vector<int64_t> wished = BlocksForWish(geometry, wish);
  const double share = rest / std::max(1.0, BytesOf(geometry, wished));
  constexpr double kMostBlocks = std::numeric_limits<core::BlockId>::max();
  for (size_t g = 0; g < blocks.size(); ++g) {
    const double count =
        static_cast<double>(blocks[g]) + std::floor(static_cast<double>(wished[g]) * share);
    blocks[g] = static_cast<int64_t>(std::min(count, kMostBlocks));
  }
  return blocks;
}

absl::Status CheckPoolBytes(const core::KvGeometry& geometry, int64_t bytes) {
  int64_t least = 0;
  for (size_t g = 0; g < geometry.groups.size(); ++g) least += geometry.BlockBytes(g);
  if (bytes >= least) return absl::OkStatus();
  return InvalidArgument(
      "--kv-memory: {} too little for a KV cache; one block of {} tokens of every layer takes {} "
      "bytes on a rank: give at least that",
      Counted(bytes, "byte is", "bytes are"), core::kPageTokens, least);
}

int64_t LongestSequence(const std::vector<core::KvLayerGroup>& groups,
                        const std::vector<int64_t>& blocks, int64_t step_tokens, int64_t context) {
  const auto fits = [&](int64_t positions) {
    for (size_t g = 0; g < groups.size(); ++g) {
      if (MostBlocksHeld(groups[g], positions, step_tokens) > blocks[g]) return false;
    }
    return true;
  };
  int64_t low = 0;
  int64_t high = context;
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    if (fits(middle)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

}  // namespace tandem::kv_store
