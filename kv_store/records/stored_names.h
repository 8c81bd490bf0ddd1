#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/base/status.h"
#include "kv_store/base/block_hash.h"
#include "kv_store/base/encrypted_box.h"
#include "kv_store/records/tier.h"

namespace tandem::kv_store {

/// How the tiers of a state directory name and keep records: as they are, or, where the directory
/// has a key, encrypted and under keyed names. Thread safety: immutable.
class StoredNames {
 public:
  /// How many bytes an encrypted record has more than the record.
  static constexpr size_t kEncryptionOverhead = EncryptedBox::kOverhead + 72;

  /// box: null: nothing is hidden; must outlive this.
  explicit StoredNames(const EncryptedBox* box = nullptr) : box_(box) {}

  bool encrypted() const { return box_ != nullptr; }
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
  /// told. Errors: EncryptedBox::Open.
  absl::StatusOr<Opened> Open(const RecordKey& key, SharedBytes stored) const;

 private:
  const EncryptedBox* box_;
};

}  // namespace tandem::kv_store
