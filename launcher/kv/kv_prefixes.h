#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "frontend/conversations/conversations.h"
#include "kv_store/catalog/catalog.h"

namespace tandem::launcher {

/// Conversations by name, as a state directory has them.
using NamedConversations =
    std::vector<std::pair<frontend::ConversationName, frontend::Conversation>>;

/// A row of blocks from its tenant's beginning on: a conversation, or the beginning of one that
/// nobody named. Blocks before a state may be absent; then positions are known of conversations,
/// whose tokens tell them, and else counted from the first block that is there.
struct KvPrefix {
  std::string id;  // of its last block: the first digits of its stored hash
  size_t model = 0;
  std::optional<uint64_t> tenant;          // nothing: it cannot be told
  std::vector<std::string> conversations;  // that say this, and maybe more
  std::vector<size_t> chain;               // blocks of the catalog that are there, in order
  std::vector<int64_t> first_tokens;       // [chain] positions
  bool positions_known = true;             // or counted from the first block
  std::vector<size_t> blocks;              // those, and ends of earlier turns
  int64_t tokens = 0;                      // up to its end
  int64_t usable_tokens = 0;               // up to the last place that a request can go on from
  int64_t records = 0;
  int64_t bytes = 0;
  uint8_t tiers = 0;
  uint64_t last_use = 0;  // microseconds since 1970
  bool complete = false;  // a request can go on from its end
};

/// All prefixes, by model, tenant, and then the last used first. A block that several begin with is
/// in each of them.
std::vector<KvPrefix> FindPrefixes(const kv_store::Catalog& catalog,
                                   const kv_store::StoredNames& names,
                                   const NamedConversations& conversations);

/// The names of tenants by their number, as far as conversations tell them.
std::map<uint64_t, std::string> TenantNames(const NamedConversations& conversations);

}  // namespace tandem::launcher
