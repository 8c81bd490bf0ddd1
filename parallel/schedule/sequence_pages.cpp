#include "parallel/schedule/sequence_pages.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "kv_store/pages/pool_size.h"

namespace tandem::parallel {

using core::BlockId;
using core::kNoBlock;

SequencePages::SequencePages(kv_store::PrefixIndex& index,
                             const std::vector<core::KvLayerGroup>& groups, uint64_t tenant,
                             std::span<const int32_t> tokens, int32_t most)
    : index_(&index),
      groups_(&groups),
      tenant_(tenant),
      adopts_(most > 0),
      tables_(groups.size()),
      left_behind_(groups.size(), 0),
      left_globals_(groups.size(), 0),
      held_(groups.size(), 0),
      changes_(groups.size()) {
  if (!adopts_) {
    place_ = index.Enter(tenant);
    hash_ = kv_store::PrefixIndex::HashAt(place_);
    return;
  }
  match_ = index.Take(tenant, tokens, most);
  place_ = match_.place;
  hash_ = kv_store::PrefixIndex::HashAt(place_);
  for (size_t g = 0; g < groups.size(); ++g) {
    for (size_t i = 0; i < match_.tables[g].size(); ++i) SetBlock(g, i, match_.tables[g][i]);
    added_ = tables_[g].size();
  }
}

void SequencePages::SetBlock(size_t group, size_t index, BlockId block) {
  auto& table = tables_[group];
  if (index == table.size()) {
    table.push_back(block);
    held_[group] += block != kNoBlock ? 1 : 0;
  } else {
    held_[group] += (block != kNoBlock ? 1 : 0) - (table[index] != kNoBlock ? 1 : 0);
    table[index] = block;
  }
  changes_[group].push_back({.index = static_cast<int32_t>(index), .block = block});
}

void SequencePages::Drop(size_t group, size_t index) {
  const BlockId block = tables_[group][index];
  if (block == kNoBlock) return;
  const core::KvLayerGroup& needs = (*groups_)[group];
  if (needs.states && !needs.Keeps(static_cast<int64_t>(index))) {
    index_->Forget(group, block);
  } else {
    index_->Release(group, block);
  }
  SetBlock(group, index, kNoBlock);
}

void SequencePages::LeaveBehind(size_t group, int64_t start) {
  const core::KvLayerGroup& needs = (*groups_)[group];
  // The index may keep a block that is behind, and it is saved, once the step that fills it is
  // committed.
  const auto seen = std::min(
      {static_cast<size_t>(kv_store::FirstSeenBlock(needs, start)), tables_[group].size(), added_});
  for (size_t& i = left_behind_[group]; i < seen; ++i) {
    if (!kv_store::SeesBlock(needs, start, static_cast<int64_t>(i))) Drop(group, i);
  }
  const auto globals = std::min(static_cast<size_t>(kv_store::GlobalBlocks(needs, start).begin),
                                tables_[group].size());
  for (size_t& i = left_globals_[group]; i < globals; ++i) Drop(group, i);
}

void SequencePages::Copy(std::vector<PageMove>& moves) {
  if (match_.copied == 0) return;
  std::vector<std::optional<BlockId>> own;
  for (size_t g = 0; g < groups_->size(); ++g) {
    own.push_back(match_.copy_from[g] == kNoBlock ? kNoBlock : index_->Allocate(g));
  }
  const bool all = std::all_of(own.begin(), own.end(), [](const auto& b) { return b.has_value(); });
  for (size_t g = 0; g < groups_->size(); ++g) {
    if (match_.copy_from[g] == kNoBlock) {
      if (all) SetBlock(g, tables_[g].size(), kNoBlock);
      continue;
    }
    if (all) {
      moves.emplace_back(
          BlockCopy{.group = static_cast<int32_t>(g), .from = match_.copy_from[g], .to = *own[g]});
      SetBlock(g, tables_[g].size(), *own[g]);
    } else if (own[g]) {
      index_->Release(g, *own[g]);
    }
    // Whoever gets the block next writes to it after the copies of this plan, or later.
    index_->Release(g, match_.copy_from[g]);
  }
  if (!all) match_.tokens -= match_.copied;
  match_.copied = 0;
}

bool SequencePages::Sees(size_t group, int32_t position, int32_t first_block,
                         std::span<const FetchBlock> blocks) const {
  const auto& table = tables_[group];
  const auto last = static_cast<size_t>(kv_store::BlocksFor(position));
  for (size_t i = 0; i < last; ++i) {
    if (!kv_store::NeedsBlock((*groups_)[group], position, static_cast<int64_t>(i))) continue;
    const bool there =
        i < table.size()
            ? table[i] != kNoBlock
            : ((blocks[i - static_cast<size_t>(first_block)].groups >> group) & 1U) != 0;
    if (!there) return false;
  }
  return true;
}

size_t SequencePages::Restorable(int32_t first_block, std::span<const FetchBlock> blocks) const {
  const auto full = static_cast<int32_t>(tables_[0].size());
  if (!adopts_ || full < first_block) return 0;
  for (size_t count = blocks.size(); count > 0; --count) {
    const int32_t end = (first_block + static_cast<int32_t>(count) - 1) * core::kPageTokens +
                        blocks[count - 1].tokens;
    if (end <= match_.tokens) return 0;
    bool sees = true;
    for (size_t g = 0; g < groups_->size() && sees; ++g) {
      sees = Sees(g, end, first_block, blocks);
    }
    if (sees) return count;
  }
  return 0;
}

void SequencePages::ReleasePart() {
  for (size_t g = 0; g < groups_->size(); ++g) {
    if (match_.copy_from[g] != kNoBlock) index_->Release(g, match_.copy_from[g]);
  }
}

void SequencePages::DropPart() {
  if (match_.copied == 0) return;
  ReleasePart();
  match_.tokens -= match_.copied;
  match_.copied = 0;
}

bool SequencePages::Restore(FetchId fetch, int32_t first_block, std::span<const FetchBlock> blocks,
                            std::span<const int32_t> tokens, std::vector<PageMove>& moves) {
  const size_t first = tables_[0].size() - static_cast<size_t>(first_block);
  const int32_t end = (first_block + static_cast<int32_t>(blocks.size()) - 1) * core::kPageTokens +
                      blocks.back().tokens;
  std::vector<BlockLoad> loads;
  for (size_t i = first; i < blocks.size(); ++i) {
    BlockLoad& load = loads.emplace_back();
    load.fetch = fetch;
    load.index = static_cast<int32_t>(i);
    for (size_t g = 0; g < groups_->size(); ++g) {
      load.blocks.push_back(kNoBlock);
      if (!kv_store::NeedsBlock((*groups_)[g], end, static_cast<int64_t>(i) + first_block)) {
        continue;
      }
      const std::optional<BlockId> block = index_->Allocate(g);
      if (block) {
        load.blocks.back() = *block;
        continue;
      }
      for (const BlockLoad& earlier : loads) {
        for (size_t h = 0; h < earlier.blocks.size(); ++h) {
          if (earlier.blocks[h] != kNoBlock) index_->Release(h, earlier.blocks[h]);
        }
      }
      return false;
    }
  }
  DropPart();
  for (size_t g = 0; g < groups_->size(); ++g) {
    LeaveBehind(g, end);
    for (const BlockLoad& load : loads) SetBlock(g, tables_[g].size(), load.blocks[g]);
  }
  for (BlockLoad& load : loads) moves.emplace_back(std::move(load));
  match_.tokens = end;
  while (static_cast<int32_t>(added_ + 1) * core::kPageTokens <= end && AddOne(tokens)) {
    kv_store::PrefixIndex::MarkSaved(place_);
  }
  AddTail(tokens, end, nullptr);
  return true;
}

bool SequencePages::Grow(int32_t start, int32_t end) {
  const auto wanted = static_cast<size_t>(kv_store::BlocksFor(end));
  const auto first = static_cast<size_t>(start / core::kPageTokens);
  for (size_t g = 0; g < groups_->size(); ++g) {
    LeaveBehind(g, start);
    const core::KvLayerGroup& needs = (*groups_)[g];
    // The state at the end of a block that was begun by others is still to come.
    for (size_t i = needs.states ? std::min(first, tables_[g].size()) : tables_[g].size();
         i < wanted; ++i) {
      if (i < tables_[g].size() && tables_[g][i] != kNoBlock) continue;
      std::optional<BlockId> block = kNoBlock;
      if (needs.Holds(static_cast<int64_t>(i))) block = index_->Allocate(g);
      if (!block) return false;
      if (i == tables_[g].size() || *block != kNoBlock) SetBlock(g, i, *block);
    }
  }
  return true;
}

std::vector<std::vector<BlockChange>> SequencePages::TakeChanges() {
  return std::exchange(changes_, std::vector<std::vector<BlockChange>>(groups_->size()));
}

std::vector<BlockId> SequencePages::BlocksAt(size_t index) const {
  std::vector<BlockId> blocks;
  for (const auto& table : tables_)
    blocks.push_back(index < table.size() ? table[index] : kNoBlock);
  return blocks;
}

std::vector<BlockId> SequencePages::BlocksOfTail() const {
  std::vector<BlockId> blocks = BlocksAt(added_);
  for (size_t g = 0; g < blocks.size(); ++g) {
    if ((*groups_)[g].states) blocks[g] = kNoBlock;  // it is not there yet
  }
  return blocks;
}

void SequencePages::PassBorder(const BlockSave& save) {
  for (size_t g = 0; g < groups_->size(); ++g) {
    if ((*groups_)[g].states && save.blocks[g] != kNoBlock) border_ = save;
  }
}

bool SequencePages::AddOne(std::span<const int32_t> tokens) {
  const std::vector<BlockId> own = BlocksAt(added_);
  std::vector<BlockId> blocks = own;
  kv_store::PrefixNode* next = index_->Extend(
      place_, tokens.subspan(added_ * core::kPageTokens, core::kPageTokens), blocks, adopts_);
  if (next == nullptr) {
    apart_ = true;
    return false;
  }
  place_ = next;
  hash_ = kv_store::PrefixIndex::HashAt(next);
  for (size_t g = 0; g < blocks.size(); ++g) {
    if (blocks[g] != own[g]) SetBlock(g, added_, blocks[g]);
  }
  ++added_;
  return true;
}

void SequencePages::AddFull(std::span<const int32_t> tokens, int32_t computed,
                            std::vector<BlockSave>* saves) {
  while (static_cast<int32_t>(added_ + 1) * core::kPageTokens <= computed) {
    const kv_store::BlockHash before = hash_;
    bool unsaved = true;
    if (!apart_ && AddOne(tokens)) {
      unsaved = saves != nullptr && kv_store::PrefixIndex::MarkSaved(place_);
    } else {
      // Nobody knows whether the index's block has records, and it may be gone when this one ends.
      const auto block = tokens.subspan(added_ * core::kPageTokens, core::kPageTokens);
      ++added_;
      if (saves == nullptr) continue;
      hash_ = kv_store::ChainHash(before, block);
    }
    BlockSave save{.hash = hash_,
                   .before = before,
                   .tenant = tenant_,
                   .tokens = core::kPageTokens,
                   .blocks = BlocksAt(added_ - 1)};
    PassBorder(save);
    if (!unsaved) continue;
    for (size_t g = 0; g < groups_->size(); ++g) {
      const core::KvLayerGroup& needs = (*groups_)[g];
      if (needs.states && !needs.Keeps(static_cast<int64_t>(added_) - 1)) {
        save.blocks[g] = kNoBlock;
      }
    }
    saves->push_back(std::move(save));
  }
}

void SequencePages::AddTail(std::span<const int32_t> tokens, int32_t computed,
                            std::vector<BlockSave>* saves) {
  AddFull(tokens, computed, saves);
  if (apart_) return;
  const size_t begin = added_ * core::kPageTokens;
  index_->AddTail(place_, tokens.subspan(begin, static_cast<size_t>(computed) - begin),
                  BlocksOfTail());
}

void SequencePages::SaveBorder(std::vector<BlockSave>& saves) const {
  if (!border_) return;
  BlockSave save = *border_;
  for (size_t g = 0; g < save.blocks.size(); ++g) {
    if (!(*groups_)[g].states) save.blocks[g] = kNoBlock;
  }
  saves.push_back(std::move(save));
}

void SequencePages::KeepBorder() {
  for (size_t g = 0; g < groups_->size(); ++g) {
    if (!(*groups_)[g].states) continue;
    // The newest of those that are computed.
    for (size_t i = std::min(added_, tables_[g].size()); i-- > left_behind_[g];) {
      if (tables_[g][i] == kNoBlock) continue;
      index_->Keep(g, tables_[g][i]);
      break;
    }
  }
}

void SequencePages::SaveTail(std::span<const int32_t> tokens, int32_t computed,
                             std::vector<BlockSave>& saves) const {
  SaveBorder(saves);
  const size_t begin = added_ * core::kPageTokens;
  const auto end = static_cast<size_t>(computed);
  const std::vector<BlockId> blocks = BlocksOfTail();
  if (end <= begin) return;
  for (size_t g = 0; g < blocks.size(); ++g) {
    if (!(*groups_)[g].states && blocks[g] == kNoBlock) return;
  }
  saves.push_back({.hash = kv_store::ChainHash(hash_, tokens.subspan(begin, end - begin)),
                   .before = hash_,
                   .tenant = tenant_,
                   .tokens = computed - static_cast<int32_t>(begin),
                   .blocks = blocks});
}

void SequencePages::Release() {
  for (size_t g = 0; g < groups_->size(); ++g) {
    // What is released last is evicted last: without its first blocks the rest is of no use.
    const auto& table = tables_[g];
    const auto globals = std::min<size_t>(
        table.size(), static_cast<size_t>(kv_store::BlocksFor((*groups_)[g].global)));
    std::vector<BlockId> blocks(table.begin() + static_cast<int64_t>(globals), table.end());
    blocks.insert(blocks.end(), table.begin(), table.begin() + static_cast<int64_t>(globals));
    for (const BlockId block : blocks) {
      if (block != kNoBlock) index_->Release(g, block);
    }
  }
  if (match_.copied > 0) ReleasePart();
  index_->Leave(place_);
}

}  // namespace tandem::parallel
