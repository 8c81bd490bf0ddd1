#include "parallel/plan/record_probe.h"

#include <algorithm>
#include <optional>
#include <span>

#include "kv_store/base/chain_blocks.h"
#include "kv_store/pages/pool_size.h"

namespace tandem::parallel {
namespace {

constexpr size_t kFull = core::kPageTokens;

/// Whether the tier has the records of a row of blocks. [blocks][layer groups]
class Known {
 public:
  Known(kv_store::Tier& tier, const kv_store::Fingerprint& fingerprint, size_t groups,
        int32_t kv_head, std::span<const kv_store::BlockHash> hashes,
        std::span<const int32_t> tokens)
      : groups_(groups) {
    std::vector<kv_store::RecordKey> keys;
    for (size_t i = 0; i < hashes.size(); ++i) {
      for (size_t g = 0; g < groups; ++g) {
        keys.push_back(kv_store::RecordKeyOf(fingerprint, {.block = hashes[i],
                                                           .tokens = tokens[i],
                                                           .kv_head = kv_head,
                                                           .group = static_cast<int32_t>(g)}));
      }
    }
    where_ = tier.Where(keys);
    where_.resize(keys.size());
  }

  const std::optional<kv_store::TierKind>& At(size_t block, size_t group) const {
    return where_[block * groups_ + group];
  }
  bool Any(size_t block) const {
    for (size_t g = 0; g < groups_; ++g) {
      if (At(block, g)) return true;
    }
    return false;
  }
  /// Whether all of a tail are there.
  bool AllOfTail(size_t block, const std::vector<core::KvLayerGroup>& groups) const {
    for (size_t g = 0; g < groups_; ++g) {
      if (!groups[g].states && !At(block, g)) return false;
    }
    return true;
  }
  /// The farther of `from` and where the block's records are.
  kv_store::TierKind Farthest(size_t block, kv_store::TierKind from) const {
    for (size_t g = 0; g < groups_; ++g) from = std::max(from, At(block, g).value_or(from));
    return from;
  }

 private:
  size_t groups_;
  std::vector<std::optional<kv_store::TierKind>> where_;
};

}  // namespace

SavedTokens FindSaved(kv_store::Tier& tier, const kv_store::Fingerprint& fingerprint,
                      const std::vector<core::KvLayerGroup>& groups, int32_t kv_head,
                      const RecordProbe& probe) {
  const std::span<const int32_t> tokens(probe.tokens);
  const int64_t first = probe.first_block;
  const std::vector<kv_store::BlockHash> chain = kv_store::FullBlocksOf(probe.before, tokens);
  const std::vector<int32_t> lengths(chain.size(), core::kPageTokens);
  const Known full(tier, fingerprint, groups.size(), kv_head, chain, lengths);
  const auto usable = [&](int64_t blocks, bool without_states) {
    for (size_t g = 0; g < groups.size(); ++g) {
      if (without_states && groups[g].states) continue;
      const int64_t end = (first + blocks) * core::kPageTokens;
      for (int64_t i = first; i < first + blocks; ++i) {
        if (!kv_store::NeedsBlock(groups[g], end, i)) continue;
        if (!full.At(static_cast<size_t>(i - first), g)) return false;
      }
    }
    return true;
  };
  auto saved = static_cast<int64_t>(chain.size());
  while (saved > 0 && !full.Any(static_cast<size_t>(saved - 1))) --saved;
  auto blocks = saved;
  while (blocks > 0 && !usable(blocks, /*without_states=*/false)) --blocks;
  auto lack = SavedTokens::Lack::kNothing;
  if (blocks < saved) {
    lack = usable(saved, /*without_states=*/true) ? SavedTokens::Lack::kState
                                                  : SavedTokens::Lack::kRecords;
  }
  const auto whole = static_cast<int32_t>((first + blocks) * core::kPageTokens);
  auto from = kv_store::TierKind::kHost;
  for (int64_t i = 0; i < blocks; ++i) from = full.Farthest(static_cast<size_t>(i), from);

  std::vector<kv_store::BlockHash> tails;
  std::vector<int32_t> tail_tokens;
  const kv_store::BlockHash& before =
      blocks > 0 ? chain[static_cast<size_t>(blocks - 1)] : probe.before;
  const auto rest = tokens.subspan(static_cast<size_t>(blocks) * kFull);
  for (size_t length = std::min(rest.size(), kFull - 1); length > 0; --length) {
    tails.push_back(kv_store::ChainHash(before, rest.first(length)));
    tail_tokens.push_back(static_cast<int32_t>(length));
  }
  const Known tail(tier, fingerprint, groups.size(), kv_head, tails, tail_tokens);
  for (size_t i = 0; i < tails.size(); ++i) {
    if (tail.AllOfTail(i, groups))
      return {.tokens = whole + tail_tokens[i], .lack = lack, .from = tail.Farthest(i, from)};
  }
  return {.tokens = blocks > 0 ? whole : 0, .lack = lack, .from = from};
}

}  // namespace tandem::parallel
