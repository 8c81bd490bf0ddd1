#include "frontend/conversations/conversation_places.h"

#include <sodium.h>

#include <algorithm>
#include <cstring>

#include "core/base/wire.h"

namespace tandem::frontend {
namespace {

constexpr uint8_t kIdentityVersion = 1;
constexpr size_t kNumberBytes = 8;
constexpr size_t kHashBytes = ConversationPlaces::kPrefixBytes - 1;

struct Identity {
  uint8_t version = kIdentityVersion;
  bool encrypted = false;
  kv_store::StateId salt{};
  std::array<uint8_t, 16> check{};
};

template <typename Archive>
void Fields(Archive& archive, Identity& identity) {
  archive(identity.version, identity.encrypted, identity.salt, identity.check);
}

}  // namespace

ConversationPlaces::ConversationPlaces(const kv_store::EncryptedBox* box)
    : ConversationPlaces(
          [] {
            Bytes16 salt{};
            randombytes_buf(salt.data(), salt.size());
            return salt;
          }(),
          box) {}

ConversationPlaces::ConversationPlaces(const Bytes16& salt, const kv_store::EncryptedBox* box)
    : salt_(salt), encrypted_(box != nullptr) {
  const auto salt_bytes = std::as_bytes(std::span(salt_));
  name_key_.fill(0);
  if (box == nullptr) {
    std::copy(salt_.begin(), salt_.end(), name_key_.begin());
    return;
  }
  name_key_ = box->Derive("conversation names", salt_bytes);
  const auto check = box->Derive("conversation store", salt_bytes);
  std::copy_n(check.begin(), check_.size(), check_.begin());
}

absl::StatusOr<ConversationPlaces> ConversationPlaces::Read(std::span<const std::byte> identity,
                                                            const kv_store::EncryptedBox* box) {
  constexpr const char* kDamaged = "the record that says how to read it is damaged";
  if (identity.size() <= sizeof(kv_store::Checksum)) return absl::DataLossError(kDamaged);
  const auto fields = identity.first(identity.size() - sizeof(kv_store::Checksum));
  core::WireReader reader("identity of the store", fields);
  Identity read;
  reader(read);
  if (read.version > kIdentityVersion) {
    return FailedPrecondition(
        "it has version {}, and this program reads versions up to {}: start a newer tandem",
        read.version, kIdentityVersion);
  }
  const auto sum = kv_store::ChecksumOf(fields);
  if (!reader.Finish().ok() || read.version == 0 ||
      !std::equal(sum.begin(), sum.end(), identity.end() - sizeof(kv_store::Checksum))) {
    return absl::DataLossError(kDamaged);
  }
  if (read.encrypted && box == nullptr) {
    return FailedPrecondition("it is encrypted: give --state-key the key file it was made with");
  }
  if (!read.encrypted && box != nullptr) {
    return FailedPrecondition(
        "it was made without encryption: leave out --state-key, or choose another --state");
  }
  const ConversationPlaces places(read.salt, box);
  if (sodium_memcmp(places.check_.data(), read.check.data(), read.check.size()) != 0) {
    return FailedPrecondition(
        "it is encrypted with another key: give --state-key the key file it was made with");
  }
  return places;
}

std::vector<std::byte> ConversationPlaces::identity() const {
  core::WireWriter writer;
  writer(Identity{.encrypted = encrypted_, .salt = salt_, .check = check_});
  writer.Raw(kv_store::ChecksumOf(writer.bytes()));
  return writer.Take();
}

std::string ConversationPlaces::Prefix(const ConversationName& name) const {
  std::string prefix(kPrefixBytes, kConversation);
  const uint64_t tenant_bytes = name.tenant.size();
  crypto_generichash_state state;
  crypto_generichash_init(&state, name_key_.data(), name_key_.size(), kHashBytes);
  crypto_generichash_update(&state, reinterpret_cast<const unsigned char*>(&tenant_bytes),
                            sizeof(tenant_bytes));
  for (const std::string& part : {name.tenant, name.id}) {
    crypto_generichash_update(&state, reinterpret_cast<const unsigned char*>(part.data()),
                              part.size());
  }
  crypto_generichash_final(&state, reinterpret_cast<unsigned char*>(prefix.data()) + 1, kHashBytes);
  return prefix;
}

std::string ConversationPlaces::EndOf(std::string prefix) {
  while (!prefix.empty() && static_cast<uint8_t>(prefix.back()) == 0xFF) prefix.pop_back();
  if (!prefix.empty()) ++prefix.back();
  return prefix;
}

ConversationPlaces::Bytes16 ConversationPlaces::HashOfPrefix(std::string_view prefix) {
  Bytes16 hash{};
  std::copy_n(prefix.begin() + 1, hash.size(), hash.begin());
  return hash;
}

std::string ConversationPlaces::PrefixOfHash(const Bytes16& hash) {
  std::string prefix(1, kConversation);
  prefix.append(hash.begin(), hash.end());
  return prefix;
}

ConversationPlaces::Bytes16 ConversationPlaces::Keyed(const Bytes16& hash) const {
  Bytes16 keyed{};
  crypto_generichash(keyed.data(), keyed.size(), hash.data(), hash.size(), name_key_.data(),
                     name_key_.size());
  return keyed;
}

std::string ConversationPlaces::Place(std::string_view prefix, uint64_t number) {
  std::string place(prefix);
  for (size_t i = 0; i < kNumberBytes; ++i) {
    place.push_back(static_cast<char>(number >> (8 * (kNumberBytes - 1 - i))));
  }
  return place;
}

std::optional<uint64_t> ConversationPlaces::NumberOfPlace(std::string_view place) {
  if (place.size() != kPrefixBytes + kNumberBytes || place[0] != kConversation) return {};
  uint64_t number = 0;
  for (const char c : place.substr(kPrefixBytes)) number = number << 8 | static_cast<uint8_t>(c);
  return number;
}

}  // namespace tandem::frontend
