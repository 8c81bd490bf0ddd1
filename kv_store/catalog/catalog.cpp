#include "kv_store/catalog/catalog.h"

#include <algorithm>
#include <utility>

namespace tandem::kv_store {
namespace {

bool IsWhole(const CatalogRecord& record) {
  return record.health == RecordHealth::kUnread || record.health == RecordHealth::kGood;
}

}  // namespace

int64_t CatalogBlock::bytes() const {
  int64_t sum = 0;
  for (const CatalogRecord& record : records) sum += record.bytes;
  return sum;
}

std::optional<size_t> Catalog::Find(const BlockHash& stored) const {
  const auto found = index_.find(stored);
  if (found == index_.end()) return std::nullopt;
  return found->second;
}

bool Catalog::IsAnchored(size_t block) const { return anchored_[block]; }

bool Catalog::Has(size_t block, size_t model) const {
  const std::vector<CatalogRecord>& records = blocks_[block].records;
  return std::any_of(records.begin(), records.end(),
                     [&](const CatalogRecord& record) { return record.model == model; });
}

std::vector<std::pair<int32_t, int32_t>> Catalog::Missing(size_t block, size_t model) const {
  std::set<std::pair<int32_t, int32_t>> there;
  std::set<int32_t> groups;
  for (const CatalogRecord& record : blocks_[block].records) {
    if (record.model != model) continue;
    there.emplace(record.kv_head, record.group);
    groups.insert(record.group);
  }
  std::vector<std::pair<int32_t, int32_t>> missing;
  for (const int32_t group : groups) {
    for (const int32_t head : models_[model].kv_heads) {
      if (!there.contains({head, group})) missing.emplace_back(head, group);
    }
  }
  return missing;
}

bool Catalog::HasWholePages(size_t block, size_t model) const {
  const std::set<int32_t>& states = models_[model].state_groups;
  bool any = false;
  for (const CatalogRecord& record : blocks_[block].records) {
    if (record.model != model || states.contains(record.group)) continue;
    if (!IsWhole(record)) return false;
    any = true;
  }
  const auto missing = Missing(block, model);
  return any && std::all_of(missing.begin(), missing.end(),
                            [&](const auto& one) { return states.contains(one.second); });
}

bool Catalog::HasWholeState(size_t block, size_t model) const {
  const std::set<int32_t>& groups = models_[model].state_groups;
  size_t whole = 0;
  for (const CatalogRecord& record : blocks_[block].records) {
    if (record.model == model && groups.contains(record.group) && IsWhole(record)) ++whole;
  }
  return whole > 0 && whole == groups.size() * models_[model].kv_heads.size();
}

bool Catalog::IsUsable(size_t block, size_t model) const { return usable_[model][block]; }

bool Catalog::IsReachable(size_t block, size_t model) const { return reachable_[model][block]; }

int32_t Catalog::Tokens(size_t block, size_t model) const {
  for (const CatalogRecord& record : blocks_[block].records) {
    if (record.model == model && record.tokens > 0) return record.tokens;
  }
  return 0;
}

std::vector<size_t> Catalog::ChainTo(size_t block) const {
  std::vector<size_t> chain = {block};
  // A damaged index may go in circles.
  while (blocks_[chain.back()].below && chain.size() <= blocks_.size()) {
    chain.push_back(*blocks_[chain.back()].below);
  }
  std::reverse(chain.begin(), chain.end());
  return chain;
}

}  // namespace tandem::kv_store
