#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "frontend/conversations/conversations.h"
#include "kv_store/base/encrypted_box.h"
#include "kv_store/journal/journal.h"

namespace tandem::frontend {

/// Where the records of conversations lie in a store, and who may open them.
///
/// A place is `C`, 16 bytes of a keyed hash of the conversation's tenant and name, and the number
/// of the record as 8 bytes, big-endian: 0 is the head, t is turn t, from 1. The key of the hash is
/// the store's own. Thread safety: none needed, immutable.
class ConversationPlaces {
 public:
  using Bytes16 = std::array<uint8_t, 16>;
  static constexpr char kConversation = 'C';
  static constexpr char kErasure = 'E';  // and 8 bytes of number: what is still to be destroyed
  static constexpr char kErased = 'D';   // ErasedConversation
  static constexpr std::string_view kIdentity = kv_store::kIdentityPlace;
  static constexpr size_t kPrefixBytes = 1 + 16;

  /// Of a new store. `box`: encrypts its records, null: nothing does; must outlive this.
  explicit ConversationPlaces(const kv_store::EncryptedBox* box);
  /// Of a store that was made before. kFailedPrecondition where it was made with another key (or
  /// without one, or by a newer program), kDataLoss where the record is damaged.
  static absl::StatusOr<ConversationPlaces> Read(std::span<const std::byte> identity,
                                                 const kv_store::EncryptedBox* box);
  /// The record that Read reads.
  std::vector<std::byte> identity() const;
  /// Which store: the same for it and its copies.
  kv_store::StateId state() const { return salt_; }

  /// What the places of all records of a conversation begin with.
  std::string Prefix(const ConversationName& name) const;
  /// Whether it is what the places of a conversation begin with.
  static bool IsPrefix(std::string_view prefix) {
    return prefix.size() == kPrefixBytes && prefix[0] == kConversation;
  }
  /// The first place behind all that begin with this.
  static std::string EndOf(std::string prefix);
  /// The prefix without its first byte, and back.
  static Bytes16 HashOfPrefix(std::string_view prefix);
  static std::string PrefixOfHash(const Bytes16& hash);
  /// Of a hash of a turn: whoever has no key of the store cannot tell which turn it is of.
  Bytes16 Keyed(const Bytes16& hash) const;
  static std::string Place(std::string_view prefix, uint64_t number);
  /// The number at the end of a place; nothing if it is none.
  static std::optional<uint64_t> NumberOfPlace(std::string_view place);

 private:
  ConversationPlaces(const Bytes16& salt, const kv_store::EncryptedBox* box);

  Bytes16 salt_{};
  bool encrypted_ = false;
  Bytes16 check_{};                   // tells whether a key is the right one
  std::array<uint8_t, 32> name_key_;  // of the hashes of names
};

}  // namespace tandem::frontend
