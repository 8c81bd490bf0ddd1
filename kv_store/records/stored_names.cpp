#include "kv_store/records/stored_names.h"

#include <bit>
#include <cstring>
#include <utility>

namespace tandem::kv_store {
namespace {

/// What stands before a record's bytes under the seal, since outside of it is only what hides it.
struct Told {
  BlockHash block{};
  BlockHash before{};
  uint64_t tenant = 0;
};
static_assert(sizeof(Told) == 72 && std::endian::native == std::endian::little);
static_assert(StoredNames::kEncryptionOverhead == EncryptedBox::kOverhead + sizeof(Told));

std::vector<std::byte> Plain(const TierRecord& record) {
  const Told told{record.block, record.before, record.tenant};
  std::vector<std::byte> plain(sizeof(told) + record.bytes.size());
  std::memcpy(plain.data(), &told, sizeof(told));
  if (!record.bytes.empty()) {
    std::memcpy(plain.data() + sizeof(told), record.bytes.data(), record.bytes.size());
  }
  return plain;
}

}  // namespace

RecordKey StoredNames::Key(const RecordKey& key) const {
  return encrypted() ? box_->Derive("kv record", std::as_bytes(std::span(key))) : key;
}

std::vector<RecordKey> StoredNames::Keys(std::span<const RecordKey> keys) const {
  std::vector<RecordKey> stored;
  stored.reserve(keys.size());
  for (const RecordKey& key : keys) stored.push_back(Key(key));
  return stored;
}

BlockHash StoredNames::Block(const BlockHash& block) const {
  return encrypted() ? box_->Derive("kv block", std::as_bytes(std::span(block))) : block;
}

uint64_t StoredNames::Tenant(uint64_t tenant) const {
  if (!encrypted()) return tenant;
  const auto hash = box_->Derive("kv tenant", std::as_bytes(std::span(&tenant, 1)));
  uint64_t hidden = 0;
  std::memcpy(&hidden, hash.data(), sizeof(hidden));
  return hidden;
}

TierRecord StoredNames::Seal(const TierRecord& record) const {
  if (!encrypted()) return record;
  const RecordKey key = Key(record.key);
  return {.key = key,
          .block = Block(record.block),
          .before = Block(record.before),
          .tenant = Tenant(record.tenant),
          .bytes = box_->Seal(record.tenant, std::as_bytes(std::span(key)), Plain(record))};
}

absl::StatusOr<StoredNames::Opened> StoredNames::Open(const RecordKey& key,
                                                      SharedBytes stored) const {
  Opened opened;
  if (!encrypted()) {
    opened.bytes = std::move(stored);
    return opened;
  }
  TANDEM_ASSIGN_OR_RETURN(const SharedBytes plain,
                          box_->Open(std::as_bytes(std::span(key)), stored.span()));
  Told told;
  if (plain.size() < sizeof(told)) {
    return absl::DataLossError(
        fmt::format("encrypted KV record of {} bytes: too short", plain.size()));
  }
  std::memcpy(&told, plain.data(), sizeof(told));
  opened.bytes = plain.From(sizeof(told));
  opened.block = told.block;
  opened.before = told.before;
  opened.tenant = told.tenant;
  return opened;
}

}  // namespace tandem::kv_store
