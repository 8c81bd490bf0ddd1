#include "kv_store/tiers/merge_lists.h"

#include <algorithm>
#include <map>
#include <utility>

namespace tandem::kv_store {
namespace {

void MergeRecords(std::vector<ListedRecord>& into, const std::vector<ListedRecord>& more) {
  for (const ListedRecord& record : more) {
    const auto place = std::lower_bound(
        into.begin(), into.end(), record,
        [](const ListedRecord& a, const ListedRecord& b) { return a.key < b.key; });
    if (place != into.end() && place->key == record.key) {
      place->tiers = static_cast<uint8_t>(place->tiers | record.tiers);
    } else {
      into.insert(place, record);
    }
  }
}

}  // namespace

std::vector<ListedBlock> MergeLists(std::vector<std::vector<ListedBlock>> lists, size_t most) {
  std::map<BlockHash, ListedBlock> merged;
  for (std::vector<ListedBlock>& list : lists) {
    for (ListedBlock& block : list) {
      const auto [place, is_new] = merged.try_emplace(block.block);
      if (is_new) {
        place->second = std::move(block);
        continue;
      }
      place->second.last_use = std::max(place->second.last_use, block.last_use);
      MergeRecords(place->second.records, block.records);
    }
  }
  // What is among the first of all is among the first of its own list.
  std::vector<ListedBlock> first;
  for (auto it = merged.begin(); it != merged.end() && first.size() < most; ++it) {
    first.push_back(std::move(it->second));
  }
  return first;
}

}  // namespace tandem::kv_store
