#include "launcher/kv/kv_prefixes.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "frontend/text/name_number.h"
#include "kv_store/base/chain_blocks.h"
#include "kv_store/base/hex.h"

namespace tandem::launcher {
namespace {

constexpr size_t kIdBytes = 6;

std::string IdOf(const kv_store::BlockHash& hash) {
  return kv_store::Hex(std::span(hash).first(kIdBytes));
}

class PrefixFinder {
 public:
  PrefixFinder(const kv_store::Catalog& catalog, const kv_store::StoredNames& names,
               const NamedConversations& conversations)
      : catalog_(catalog), names_(names), conversations_(conversations) {}

  std::vector<KvPrefix> Find() {
    std::vector<std::vector<size_t>> said;  // [conversations] blocks that are there, in order
    for (const auto& [name, conversation] : conversations_) {
      std::vector<size_t>& blocks = said.emplace_back();
      for (const kv_store::BlockHash& hash :
           kv_store::BlocksOfChain(frontend::NumberOf(name.tenant), conversation.history.tokens,
                                   /*kept=*/0)) {
        if (const auto block = catalog_.Find(names_.Block(hash))) blocks.push_back(*block);
      }
    }
    std::vector<KvPrefix> prefixes;
    for (size_t m = 0; m < catalog_.models().size(); ++m) {
      std::map<size_t, KvPrefix> by_end;
      std::set<size_t> covered;
      for (size_t c = 0; c < said.size(); ++c) {
        std::vector<size_t> blocks;
        for (const size_t block : said[c]) {
          if (catalog_.Has(block, m)) blocks.push_back(block);
        }
        if (blocks.empty()) continue;
        covered.insert(blocks.begin(), blocks.end());
        KvPrefix& prefix =
            by_end.try_emplace(blocks.back(), Describe(blocks.back(), m, blocks)).first->second;
        prefix.conversations.push_back(conversations_[c].first.id);
      }
      for (size_t i = 0; i < catalog_.blocks().size(); ++i) {
        if (covered.contains(i) || !catalog_.Has(i, m) || HasAbove(i, m)) continue;
        by_end.emplace(i, Describe(i, m, {}));
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
  bool HasAbove(size_t block, size_t model) const {
    const std::vector<size_t>& above = catalog_.blocks()[block].above;
    return std::any_of(above.begin(), above.end(),
                       [&](size_t other) { return catalog_.Has(other, model); });
  }

  KvPrefix Describe(size_t end, size_t model, const std::vector<size_t>& more) const {
    KvPrefix prefix;
    prefix.id = IdOf(catalog_.blocks()[end].stored);
    prefix.model = model;
    if (catalog_.blocks()[end].known) prefix.tenant = catalog_.blocks()[end].tenant;
    prefix.chain = catalog_.ChainTo(end);
    for (const size_t block : prefix.chain) {
      const int64_t tokens = catalog_.Tokens(block, model);
      prefix.tokens += tokens;
      if (catalog_.IsUsable(block, model)) prefix.usable_tokens += tokens;
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
