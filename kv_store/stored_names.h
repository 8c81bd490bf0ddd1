#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/status.h"
#include "kv_store/block_hash.h"
#include "kv_store/sealed_box.h"
#include "kv_store/tier.h"

namespace tandem::kv_store {

/// The names under which a state directory's tiers keep things, and how what they keep is read: as
/// it is, or sealed and hidden where the directory has a key. Thread safety: immutable.
class StoredNames {
 public:
  /// What a sealed record has more bytes than the record.
  static constexpr size_t kSealedOverhead = SealedBox::kOverhead + 72;

  /// box: null: nothing is hidden; must outlive this.
  explicit StoredNames(const SealedBox* box = nullptr) : box_(box) {}

  bool sealed() const { return box_ != nullptr; }
  RecordKey Key(const RecordKey& key) const;
  std::vector<RecordKey> Keys(std::span<const RecordKey> keys) const;
  BlockHash Block(const BlockHash& block) const;
  uint64_t Tenant(uint64_t tenant) const;
  /// As a tier is to keep it.
  TierRecord Seal(const TierRecord& record) const;

  /// A record as it was before Seal, and where it stands.
  struct Opened {
    SharedBytes bytes;
    BlockHash block{};
    BlockHash before{};
    uint64_t tenant = 0;
  };
  /// Opens what a tier has under the stored `key`. Only with a key are block, before and tenant
  /// told. Errors: SealedBox::Open.
  absl::StatusOr<Opened> Open(const RecordKey& key, SharedBytes stored) const;

 private:
  const SealedBox* box_;
};

}  // namespace tandem::kv_store
