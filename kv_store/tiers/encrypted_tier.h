#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kv_store/base/encrypted_box.h"
#include "kv_store/records/stored_names.h"
#include "kv_store/records/tier.h"

namespace tandem::kv_store {

/// Another tier's records, encrypted: what that one keeps or passes on can be neither read nor
/// changed unnoticed. The hashes that records are found by are replaced by keyed ones, since they
/// would tell whether a text that somebody guesses is there. A record that does not open counts as
/// dropped and is a miss. Thread safety: as Tier.
class EncryptedTier : public Tier {
 public:
  /// box: must outlive it.
  EncryptedTier(std::unique_ptr<Tier> tier, const EncryptedBox& box);

  absl::Status Put(std::span<const TierRecord> records) override;
  std::vector<std::optional<FoundRecord>> Get(std::span<const RecordKey> keys) override;
  std::vector<std::optional<TierKind>> Where(std::span<const RecordKey> keys) override;
  void Use(std::span<const RecordKey> keys) override;
  absl::Status Flush() override { return tier_->Flush(); }
  absl::Status Erase(std::span<const BlockHash> blocks) override;
  TierStats Stats() override;

 private:
  const std::unique_ptr<Tier> tier_;
  const StoredNames names_;
  std::atomic<uint64_t> dropped_ = 0;
};

}  // namespace tandem::kv_store
