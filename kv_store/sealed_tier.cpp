#include "kv_store/sealed_tier.h"

#include <utility>

namespace tandem::kv_store {

SealedTier::SealedTier(std::unique_ptr<Tier> tier, const SealedBox& box)
    : tier_(std::move(tier)), names_(&box) {}

absl::Status SealedTier::Put(std::span<const TierRecord> records) {
  std::vector<TierRecord> sealed;
  sealed.reserve(records.size());
  for (const TierRecord& record : records) sealed.push_back(names_.Seal(record));
  return tier_->Put(sealed);
}

std::vector<std::optional<FoundRecord>> SealedTier::Get(std::span<const RecordKey> keys) {
  const std::vector<RecordKey> stored = names_.Keys(keys);
  std::vector<std::optional<FoundRecord>> found = tier_->Get(stored);
  for (size_t i = 0; i < found.size(); ++i) {
    if (!found[i]) continue;
    auto opened = names_.Open(stored[i], std::move(found[i]->bytes));
    if (!opened.ok()) {
      found[i].reset();
      ++dropped_;
      continue;
    }
    found[i]->bytes = std::move(opened->bytes);
    found[i]->block = opened->block;
    found[i]->before = opened->before;
    found[i]->tenant = opened->tenant;
  }
  return found;
}

std::vector<bool> SealedTier::Exists(std::span<const RecordKey> keys) {
  return tier_->Exists(names_.Keys(keys));
}

std::vector<std::optional<TierKind>> SealedTier::Where(std::span<const RecordKey> keys) {
  return tier_->Where(names_.Keys(keys));
}

void SealedTier::Use(std::span<const RecordKey> keys) { tier_->Use(names_.Keys(keys)); }

absl::Status SealedTier::Erase(std::span<const BlockHash> blocks) {
  std::vector<BlockHash> stored;
  stored.reserve(blocks.size());
  for (const BlockHash& block : blocks) stored.push_back(names_.Block(block));
  return tier_->Erase(stored);
}

TierStats SealedTier::Stats() {
  TierStats stats = tier_->Stats();
  stats.dropped += dropped_.load();
  return stats;
}

}  // namespace tandem::kv_store
