#include "kv_store/sealed_tier.h"

#include <bit>
#include <cstring>
#include <utility>

namespace tandem::kv_store {
namespace {

RecordKey Hidden(const SealedBox& box, const RecordKey& key) {
  return box.Derive("kv record", std::as_bytes(std::span(key)));
}

BlockHash HiddenBlock(const SealedBox& box, const BlockHash& block) {
  return box.Derive("kv block", std::as_bytes(std::span(block)));
}

uint64_t HiddenTenant(const SealedBox& box, uint64_t tenant) {
  const auto hash = box.Derive("kv tenant", std::as_bytes(std::span(&tenant, 1)));
  uint64_t hidden = 0;
  std::memcpy(&hidden, hash.data(), sizeof(hidden));
  return hidden;
}

/// What stands before a record's bytes under the seal, since outside of it is only what hides it.
struct Told {
  BlockHash block{};
  BlockHash before{};
  uint64_t tenant = 0;
};
static_assert(sizeof(Told) == 72 && std::endian::native == std::endian::little);

std::vector<std::byte> Plain(const TierRecord& record) {
  const Told told{record.block, record.before, record.tenant};
  std::vector<std::byte> plain(sizeof(told) + record.bytes.size());
  std::memcpy(plain.data(), &told, sizeof(told));
  if (!record.bytes.empty()) {
    std::memcpy(plain.data() + sizeof(told), record.bytes.data(), record.bytes.size());
  }
  return plain;
}

std::vector<RecordKey> Hidden(const SealedBox& box, std::span<const RecordKey> keys) {
  std::vector<RecordKey> hidden;
  hidden.reserve(keys.size());
  for (const RecordKey& key : keys) hidden.push_back(Hidden(box, key));
  return hidden;
}

}  // namespace

SealedTier::SealedTier(std::unique_ptr<Tier> tier, const SealedBox& box)
    : tier_(std::move(tier)), box_(box) {}

absl::Status SealedTier::Put(std::span<const TierRecord> records) {
  std::vector<TierRecord> sealed;
  sealed.reserve(records.size());
  for (const TierRecord& record : records) {
    const RecordKey key = Hidden(box_, record.key);
    sealed.push_back(
        {.key = key,
         .block = HiddenBlock(box_, record.block),
         .before = HiddenBlock(box_, record.before),
         .tenant = HiddenTenant(box_, record.tenant),
         .bytes = box_.Seal(record.tenant, std::as_bytes(std::span(key)), Plain(record))});
  }
  return tier_->Put(sealed);
}

std::vector<std::optional<FoundRecord>> SealedTier::Get(std::span<const RecordKey> keys) {
  const std::vector<RecordKey> hidden = Hidden(box_, keys);
  std::vector<std::optional<FoundRecord>> found = tier_->Get(hidden);
  for (size_t i = 0; i < found.size(); ++i) {
    if (!found[i]) continue;
    auto opened = box_.Open(std::as_bytes(std::span(hidden[i])), found[i]->bytes);
    if (!opened.ok() || opened->size() < sizeof(Told)) {
      found[i].reset();
      ++dropped_;
      continue;
    }
    Told told;
    std::memcpy(&told, opened->data(), sizeof(told));
    opened->erase(opened->begin(), opened->begin() + sizeof(told));
    found[i]->bytes = *std::move(opened);
    found[i]->block = told.block;
    found[i]->before = told.before;
    found[i]->tenant = told.tenant;
  }
  return found;
}

std::vector<bool> SealedTier::Exists(std::span<const RecordKey> keys) {
  return tier_->Exists(Hidden(box_, keys));
}

void SealedTier::Use(std::span<const RecordKey> keys) { tier_->Use(Hidden(box_, keys)); }

absl::Status SealedTier::Erase(std::span<const BlockHash> blocks) {
  std::vector<BlockHash> hidden;
  hidden.reserve(blocks.size());
  for (const BlockHash& block : blocks) hidden.push_back(HiddenBlock(box_, block));
  return tier_->Erase(hidden);
}

TierStats SealedTier::Stats() {
  TierStats stats = tier_->Stats();
  stats.dropped += dropped_.load();
  return stats;
}

}  // namespace tandem::kv_store
