#include "kv_store/tiers/encrypted_tier.h"

#include <utility>

namespace tandem::kv_store {

EncryptedTier::EncryptedTier(std::unique_ptr<Tier> tier, const EncryptedBox& box)
    : tier_(std::move(tier)), names_(&box) {}

absl::Status EncryptedTier::Put(std::span<const TierRecord> records) {
  std::vector<TierRecord> encrypted;
  encrypted.reserve(records.size());
  for (const TierRecord& record : records) encrypted.push_back(names_.Seal(record));
  return tier_->Put(encrypted);
}

std::vector<std::optional<FoundRecord>> EncryptedTier::Get(std::span<const RecordKey> keys) {
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

std::vector<std::optional<TierKind>> EncryptedTier::Where(std::span<const RecordKey> keys) {
  return tier_->Where(names_.Keys(keys));
}

void EncryptedTier::Use(std::span<const RecordKey> keys) { tier_->Use(names_.Keys(keys)); }

absl::Status EncryptedTier::Erase(std::span<const BlockHash> blocks) {
  std::vector<BlockHash> stored;
  stored.reserve(blocks.size());
  for (const BlockHash& block : blocks) stored.push_back(names_.Block(block));
  return tier_->Erase(stored);
}

TierStats EncryptedTier::Stats() {
  TierStats stats = tier_->Stats();
  stats.dropped += dropped_.load();
  return stats;
}

}  // namespace tandem::kv_store
