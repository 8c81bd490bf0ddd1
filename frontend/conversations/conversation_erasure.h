#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/base/wire.h"
#include "frontend/conversations/conversation_codec.h"
#include "frontend/conversations/conversation_places.h"
#include "frontend/conversations/conversations.h"
#include "kv_store/base/block_hash.h"
#include "kv_store/journal/journal.h"

/// How something is erased from a store: its records go at once, and a note stays until its bytes,
/// and its KV, are destroyed.
namespace tandem::frontend {

struct ErasureRecord {
  std::string prefix;                       // of the conversation's places; empty: blocks alone
  std::vector<kv_store::BlockHash> blocks;  // of KV
};

template <typename Archive>
void Fields(Archive& archive, ErasureRecord& erasure) {
  archive(core::AtMost(erasure.prefix, ConversationPlaces::kPrefixBytes, "bytes of a place"),
          core::AtMost(erasure.blocks, kNoLimit, "blocks"));
}

/// The end of all records whose places begin with this.
kv_store::JournalChange DeleteAllOf(const std::string& prefix);
/// The note.
kv_store::JournalChange NoteErasure(const ErasureRecord& erasure);

using NamedConversations = std::vector<std::pair<ConversationName, Conversation>>;
/// The blocks of these tokens' KV that none of the tenant's other conversations needs.
std::vector<kv_store::BlockHash> BlocksBeside(const NamedConversations& others,
                                              const std::string& tenant,
                                              std::span<const int32_t> tokens);

}  // namespace tandem::frontend
