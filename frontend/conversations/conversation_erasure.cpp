#include "frontend/conversations/conversation_erasure.h"

#include <sodium.h>

#include <algorithm>

#include "frontend/text/name_number.h"
#include "kv_store/base/chain_blocks.h"

namespace tandem::frontend {

kv_store::JournalChange DeleteAllOf(const std::string& prefix) {
  return {.kind = kv_store::JournalChange::Kind::kDeleteRange,
          .place = prefix,
          .bytes = ConversationPlaces::EndOf(prefix)};
}

kv_store::JournalChange NoteErasure(const ErasureRecord& erasure) {
  // Told apart by a random number; what lies there is found by reading all of them.
  uint64_t number = 0;
  randombytes_buf(&number, sizeof(number));
  const std::vector<std::byte> bytes = core::Encode(erasure);
  return {.kind = kv_store::JournalChange::Kind::kPut,
          .place = ConversationPlaces::Place(std::string(1, ConversationPlaces::kErasure), number),
          .bytes = {reinterpret_cast<const char*>(bytes.data()), bytes.size()}};
}

std::vector<kv_store::BlockHash> BlocksBeside(const NamedConversations& others,
                                              const std::string& tenant,
                                              std::span<const int32_t> tokens) {
  size_t known = 0;
  for (const auto& [name, other] : others) {
    if (name.tenant == tenant) known = std::max(known, CommonTokens(tokens, other.history.tokens));
  }
  return kv_store::BlocksOfChain(NumberOf(tenant), tokens, known);
}

}  // namespace tandem::frontend
