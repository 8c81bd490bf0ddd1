#include "launcher/kv/kv_prefixes.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "frontend/text/name_number.h"
#include "kv_store/base/chain_blocks.h"
#include "kv_store/base/hex.h"

namespace tandem::launcher {
namespace {

constexpr size_t kIdBytes = 6;
constexpr size_t kBlockTokens = core::kPageTokens;

std::string IdOf(const kv_store::BlockHash& hash) {
  return kv_store::Hex(std::span(hash).first(kIdBytes));
}

class PrefixFinder {
 public:
  PrefixFinder(const kv_store::Catalog& catalog, const kv_store::StoredNames& names,
               const NamedConversations& conversations)
      : catalog_(catalog), names_(names), conversations_(conversations) {}

  std::vector<KvPrefix> Find() {
    for (size_t i = 0; i < catalog_.blocks().size(); ++i) {
      first_tokens_.push_back(catalog_.FirstToken(i));
    }
    std::vector<std::vector<Said>> said;  // [conversations] blocks that are there, in order
    for (const auto& [name, conversation] : conversations_)
      said.push_back(SaidIn(name, conversation));
    std::vector<KvPrefix> prefixes;
    for (size_t m = 0; m < catalog_.models().size(); ++m) {
      std::map<size_t, KvPrefix> by_end;
      std::set<size_t> covered;
      for (size_t c = 0; c < said.size(); ++c) {
        std::vector<size_t> chain;
        std::set<size_t> blocks;
        bool last_is_full = true;
        for (const Said& one : said[c]) {
          if (!catalog_.Has(one.block, m)) continue;
          // A tail is of the chain at its end alone.
          if (!chain.empty() && !last_is_full) chain.pop_back();
          chain.push_back(one.block);
          last_is_full = one.is_full;
          blocks.insert(one.block);
        }
        if (chain.empty()) continue;
        covered.insert(blocks.begin(), blocks.end());
        KvPrefix& prefix =
            by_end.try_emplace(chain.back(), Describe(chain, m, blocks)).first->second;
        prefix.conversations.push_back(conversations_[c].first.id);
      }
      for (size_t i = 0; i < catalog_.blocks().size(); ++i) {
        if (covered.contains(i) || !catalog_.Has(i, m) || HasAbove(i, m)) continue;
        by_end.emplace(i, Describe(ChainTo(i, m), m, {}));
      }
      for (auto& [end, prefix] : by_end) prefixes.push_back(std::move(prefix));
    }
    std::sort(prefixes.begin(), prefixes.end(), [](const KvPrefix& a, const KvPrefix& b) {
      return std::tie(a.model, a.tenant, b.last_use, a.id) <
             std::tie(b.model, b.tenant, a.last_use, b.id);
    });
    return prefixes;
  }

 private:
  /// A block of a conversation.
  struct Said {
    size_t block = 0;
    bool is_full = true;  // or the end of a turn
  };

  /// Notes where they stand, too.
  std::vector<Said> SaidIn(const frontend::ConversationName& name,
                           const frontend::Conversation& conversation) {
    // A block of each number of tokens up to a full one, and then those that stand on that.
    const std::vector<kv_store::BlockHash> hashes = kv_store::BlocksOfChain(
        frontend::NumberOf(name.tenant), conversation.history.tokens, /*kept=*/0);
    std::vector<Said> said;
    for (size_t i = 0; i < hashes.size(); ++i) {
      const auto block = catalog_.Find(names_.Block(hashes[i]));
      if (!block) continue;
      first_tokens_[*block] = static_cast<int64_t>(i / kBlockTokens * kBlockTokens);
      said.push_back({.block = *block, .is_full = i % kBlockTokens == kBlockTokens - 1});
    }
    return said;
  }

  bool HasAbove(size_t block, size_t model) const {
    const std::vector<size_t>& above = catalog_.blocks()[block].above;
    return std::any_of(above.begin(), above.end(),
                       [&](size_t other) { return catalog_.Has(other, model); });
  }

  std::vector<size_t> ChainTo(size_t end, size_t model) const {
    std::vector<size_t> chain = catalog_.ChainTo(end);
    std::erase_if(chain, [&](size_t block) { return !catalog_.Has(block, model); });
    return chain;
  }

  /// chain: not empty.
  void FindPositions(KvPrefix& prefix) const {
    for (const size_t block : prefix.chain) {
      prefix.positions_known = prefix.positions_known && first_tokens_[block].has_value();
      prefix.first_tokens.push_back(first_tokens_[block].value_or(0));
    }
    if (prefix.positions_known) return;
    // These blocks stand on one another.
    const std::vector<size_t> all = catalog_.ChainTo(prefix.chain.back());
    std::map<size_t, int64_t> places;
    std::optional<int64_t> begin;
    for (const size_t block : all) {
      const auto place = static_cast<int64_t>(places.size() * kBlockTokens);
      places.emplace(block, place);
      if (first_tokens_[block]) begin = *first_tokens_[block] - place;
    }
    prefix.positions_known = begin.has_value();
    for (size_t i = 0; i < prefix.chain.size(); ++i) {
      prefix.first_tokens[i] =
          places[prefix.chain[i]] + begin.value_or(-places[prefix.chain.front()]);
    }
  }

  /// more: blocks besides.
  KvPrefix Describe(std::vector<size_t> chain, size_t model, const std::set<size_t>& more) const {
    const size_t end = chain.back();
    KvPrefix prefix;
    prefix.id = IdOf(catalog_.blocks()[end].stored);
    prefix.model = model;
    if (catalog_.blocks()[end].known) prefix.tenant = catalog_.blocks()[end].tenant;
    prefix.chain = std::move(chain);
    FindPositions(prefix);
    for (size_t i = 0; i < prefix.chain.size(); ++i) {
      const size_t block = prefix.chain[i];
      prefix.tokens = prefix.first_tokens[i] + catalog_.Tokens(block, model);
      if (catalog_.IsUsable(block, model)) prefix.usable_tokens = prefix.tokens;
    }
    std::set<size_t> all(prefix.chain.begin(), prefix.chain.end());
    all.insert(more.begin(), more.end());
    prefix.blocks.assign(all.begin(), all.end());
    for (const size_t block : prefix.blocks) {
      prefix.last_use = std::max(prefix.last_use, catalog_.blocks()[block].last_use);
      for (const kv_store::CatalogRecord& record : catalog_.blocks()[block].records) {
        if (record.model != model) continue;
        ++prefix.records;
        prefix.bytes += record.bytes;
        prefix.tiers = static_cast<uint8_t>(prefix.tiers | record.tiers);
      }
    }
    prefix.complete = catalog_.IsUsable(end, model);
    return prefix;
  }

  const kv_store::Catalog& catalog_;
  const kv_store::StoredNames& names_;
  const NamedConversations& conversations_;
  std::vector<std::optional<int64_t>> first_tokens_;  // [blocks] positions, where they are known
};

}  // namespace

std::vector<KvPrefix> FindPrefixes(const kv_store::Catalog& catalog,
                                   const kv_store::StoredNames& names,
                                   const NamedConversations& conversations) {
  return PrefixFinder(catalog, names, conversations).Find();
}

std::map<uint64_t, std::string> TenantNames(const NamedConversations& conversations) {
  std::map<uint64_t, std::string> tenants = {{0, ""}};
  for (const auto& [name, conversation] : conversations) {
    tenants.emplace(frontend::NumberOf(name.tenant), name.tenant);
  }
  return tenants;
}

}  // namespace tandem::launcher
