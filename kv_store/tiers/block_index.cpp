#include "kv_store/tiers/block_index.h"

#include <algorithm>
#include <chrono>
#include <unordered_set>

#include "core/base/check.h"

namespace tandem::kv_store {
namespace {

// A block that was used last anyway is not moved on more often than that.
constexpr uint64_t kSameUse = 1'000'000;

uint64_t Now() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(now).count());
}

}  // namespace

uint64_t BlockIndex::Tick() { return clock_ = std::max(clock_ + 1, Now()); }

bool BlockIndex::Add(const TierRecord& record, std::vector<Removed>& evicted) {
  TANDEM_CHECK(!Has(record.key), "a record is added once");
  const auto bytes = static_cast<int64_t>(record.bytes.size());
  // Nothing is evicted for what could never fit, and nothing stands on itself.
  if (record.before == record.block || (limits_.bytes > 0 && bytes > limits_.bytes) ||
      (limits_.tenant_bytes > 0 && bytes > limits_.tenant_bytes)) {
    return false;
  }
  // The block is in the index while room is made, so that what it stands on is no leaf.
  Block& block = BlockOf(record.block, record.before, record.tenant, clock_);
  const auto make_room = [&](const Leaves& leaves, const auto& fits) {
    while (!fits()) {
      Block* oldest = Oldest(leaves, &block);
      if (oldest == nullptr) return false;
      evicted.push_back(Remove(*oldest));
    }
    return true;
  };
  if (!make_room(tenants_[block.tenant].leaves, [&] { return TenantFits(block.tenant, bytes); }) ||
      !make_room(leaves_, [&] { return AllFits(bytes); })) {
    if (block.keys.empty()) Remove(block);
    return false;
  }
  AddTo(block, record.key, bytes);
  SetLastUse(block, Tick());
  return true;
}

void BlockIndex::Restore(const RecordKey& key, const BlockHash& block, const BlockHash& before,
                         uint64_t tenant, int64_t bytes, uint64_t last_use) {
  if (Has(key)) return;
  clock_ = std::max(clock_, last_use);
  AddTo(BlockOf(block, before, tenant, last_use), key, bytes);
}

std::vector<BlockIndex::Removed> BlockIndex::Shrink() {
  std::vector<Removed> removed;
  for (auto it = tenants_.begin(); it != tenants_.end();) {
    const auto next = std::next(it);  // the last block of a tenant takes its entry along
    const uint64_t tenant = it->first;
    while (!TenantFits(tenant, 0)) {
      Block* oldest = Oldest(tenants_.at(tenant).leaves, nullptr);
      if (oldest == nullptr) break;
      removed.push_back(Remove(*oldest));
    }
    it = next;
  }
  while (!AllFits(0)) {
    Block* oldest = Oldest(leaves_, nullptr);
    removed.push_back(Remove(oldest != nullptr ? *oldest : blocks_.begin()->second));
  }
  return removed;
}

bool BlockIndex::Use(const RecordKey& key) {
  const auto found = records_.find(key);
  if (found == records_.end()) return false;
  Block& block = *found->second.block;
  if (block.last_use != clock_ || Now() > clock_ + kSameUse) SetLastUse(block, Tick());
  return true;
}

void BlockIndex::DropRecord(const RecordKey& key) {
  const auto found = records_.find(key);
  if (found == records_.end()) return;
  Block& block = *found->second.block;
  if (block.keys.size() == 1) {
    Remove(block);
    return;
  }
  block.keys.erase(std::find(block.keys.begin(), block.keys.end(), key));
  block.bytes -= found->second.bytes;
  bytes_ -= found->second.bytes;
  tenants_[block.tenant].bytes -= found->second.bytes;
  records_.erase(found);
}

std::vector<BlockIndex::Removed> BlockIndex::DropBlock(const BlockHash& block) {
  // What stands on it goes first, even where the block itself is gone already.
  std::vector<BlockHash> order = {block};
  std::unordered_set<BlockHash, BlockHashBits> seen = {block};  // a damaged index may go in circles
  for (size_t i = 0; i < order.size(); ++i) {
    const auto above = standing_on_.find(order[i]);
    if (above == standing_on_.end()) continue;
    for (const BlockHash& next : above->second) {
      if (seen.insert(next).second) order.push_back(next);
    }
  }
  std::vector<Removed> removed;
  for (auto it = order.rbegin(); it != order.rend(); ++it) {
    const auto found = blocks_.find(*it);
    if (found != blocks_.end()) removed.push_back(Remove(found->second));
  }
  return removed;
}

std::optional<BlockIndex::Place> BlockIndex::Find(const RecordKey& key) const {
  const auto found = records_.find(key);
  if (found == records_.end()) return std::nullopt;
  const Block& block = *found->second.block;
  return Place{.block = block.hash,
               .before = block.before,
               .tenant = block.tenant,
               .last_use = block.last_use};
}

std::vector<RecordKey> BlockIndex::Keys() const {
  std::vector<RecordKey> keys;
  keys.reserve(records_.size());
  for (const auto& [key, record] : records_) keys.push_back(key);
  return keys;
}

std::vector<ListedBlock> BlockIndex::List(const std::optional<BlockHash>& after, size_t most,
                                          TierKind tier) const {
  const auto by_hash = [](const Block* a, const Block* b) { return a->hash < b->hash; };
  std::vector<const Block*> first;  // a heap: the last of them in front
  for (const auto& [hash, block] : blocks_) {
    if (after && hash <= *after) continue;
    if (first.size() < most) {
      first.push_back(&block);
      std::push_heap(first.begin(), first.end(), by_hash);
    } else if (!first.empty() && hash < first.front()->hash) {
      std::pop_heap(first.begin(), first.end(), by_hash);
      first.back() = &block;
      std::push_heap(first.begin(), first.end(), by_hash);
    }
  }
  std::sort_heap(first.begin(), first.end(), by_hash);
  std::vector<ListedBlock> listed;
  listed.reserve(first.size());
  for (const Block* block : first) {
    ListedBlock& one = listed.emplace_back(ListedBlock{.block = block->hash,
                                                       .before = block->before,
                                                       .tenant = block->tenant,
                                                       .last_use = block->last_use,
                                                       .records = {}});
    for (const RecordKey& key : block->keys) {
      one.records.push_back({.key = key, .bytes = records_.at(key).bytes, .tiers = TierBit(tier)});
    }
    std::sort(one.records.begin(), one.records.end(),
              [](const ListedRecord& a, const ListedRecord& b) { return a.key < b.key; });
  }
  return listed;
}

std::optional<uint64_t> BlockIndex::LastUse(const BlockHash& block) const {
  const auto found = blocks_.find(block);
  if (found == blocks_.end()) return std::nullopt;
  return found->second.last_use;
}

int64_t BlockIndex::bytes_of(uint64_t tenant) const {
  const auto found = tenants_.find(tenant);
  return found == tenants_.end() ? 0 : found->second.bytes;
}

BlockIndex::Block& BlockIndex::BlockOf(const BlockHash& hash, const BlockHash& before,
                                       uint64_t tenant, uint64_t last_use) {
  const auto [place, is_new] = blocks_.try_emplace(hash);
  Block& block = place->second;
  if (!is_new) return block;
  block.hash = hash;
  block.before = before;
  block.tenant = tenant;
  block.last_use = last_use;
  tenants_[tenant].blocks += 1;
  if (IsLeaf(block)) Enlist(block);
  if (const auto below = blocks_.find(before); below != blocks_.end() && IsLeaf(below->second)) {
    Delist(below->second);
  }
  standing_on_[before].push_back(hash);
  return block;
}

void BlockIndex::AddTo(Block& block, const RecordKey& key, int64_t bytes) {
  block.keys.push_back(key);
  block.bytes += bytes;
  bytes_ += bytes;
  tenants_[block.tenant].bytes += bytes;
  records_[key] = {.block = &block, .bytes = bytes};
}

void BlockIndex::SetLastUse(Block& block, uint64_t last_use) {
  const bool leaf = IsLeaf(block);
  if (leaf) Delist(block);
  block.last_use = last_use;
  if (leaf) Enlist(block);
}

void BlockIndex::Enlist(Block& block) {
  leaves_.emplace(block.last_use, &block);
  tenants_[block.tenant].leaves.emplace(block.last_use, &block);
}

void BlockIndex::Delist(Block& block) {
  leaves_.erase({block.last_use, &block});
  tenants_[block.tenant].leaves.erase({block.last_use, &block});
}

BlockIndex::Block* BlockIndex::Oldest(const Leaves& leaves, const Block* kept) {
  for (const auto& [last_use, block] : leaves) {
    if (block != kept) return block;
  }
  return nullptr;
}

bool BlockIndex::TenantFits(uint64_t tenant, int64_t wanted) const {
  return limits_.tenant_bytes == 0 || bytes_of(tenant) + wanted <= limits_.tenant_bytes;
}

bool BlockIndex::AllFits(int64_t wanted) const {
  return limits_.bytes == 0 || bytes_ + wanted <= limits_.bytes;
}

BlockIndex::Removed BlockIndex::Remove(Block& block) {
  Removed removed{.block = block.hash, .keys = std::move(block.keys)};
  for (const RecordKey& key : removed.keys) records_.erase(key);
  bytes_ -= block.bytes;
  if (IsLeaf(block)) Delist(block);
  const auto tenant = tenants_.find(block.tenant);
  tenant->second.bytes -= block.bytes;
  if (--tenant->second.blocks == 0) tenants_.erase(tenant);
  const auto beside = standing_on_.find(block.before);
  std::erase(beside->second, block.hash);
  const BlockHash before = block.before;
  blocks_.erase(removed.block);
  if (beside->second.empty()) {
    standing_on_.erase(beside);
    if (const auto below = blocks_.find(before); below != blocks_.end()) Enlist(below->second);
  }
  return removed;
}

}  // namespace tandem::kv_store
