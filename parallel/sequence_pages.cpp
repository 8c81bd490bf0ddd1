#include "parallel/sequence_pages.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "kv_store/pool_size.h"

namespace tandem::parallel {

using core::BlockId;
using core::kNoBlock;

SequencePages::SequencePages(kv_store::PrefixIndex& index,
                             const std::vector<core::KvLayerGroup>& groups, uint64_t tenant,
                             std::span<const int32_t> tokens, int32_t most)
    : index_(&index),
      groups_(&groups),
      adopts_(most > 0),
      tables_(groups.size()),
      left_behind_(groups.size(), 0),
      held_(groups.size(), 0),
      changes_(groups.size()) {
  if (!adopts_) {
    place_ = index.Enter(tenant);
    return;
  }
  match_ = index.Take(tenant, tokens, most);
  place_ = match_.place;
  for (size_t g = 0; g < groups.size(); ++g) {
    for (size_t i = 0; i < match_.tables[g].size(); ++i) SetBlock(g, i, match_.tables[g][i]);
    const auto& table = tables_[g];
    added_ = table.size();
    left_behind_[g] = static_cast<size_t>(
        std::find_if(table.begin(), table.end(), [](BlockId block) { return block != kNoBlock; }) -
        table.begin());
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

void SequencePages::Copy(std::vector<BlockCopy>& copies) {
  if (match_.copied == 0) return;
  std::vector<std::optional<BlockId>> own;
  for (size_t g = 0; g < groups_->size(); ++g) own.push_back(index_->Allocate(g));
  const bool all = std::all_of(own.begin(), own.end(), [](const auto& b) { return b.has_value(); });
  for (size_t g = 0; g < groups_->size(); ++g) {
    if (all) {
      copies.push_back(
          {.group = static_cast<int32_t>(g), .from = match_.copy_from[g], .to = *own[g]});
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

bool SequencePages::Grow(int32_t start, int32_t end) {
  const auto wanted = static_cast<size_t>(kv_store::BlocksFor(end));
  for (size_t g = 0; g < groups_->size(); ++g) {
    const int window = (*groups_)[g].window;
    if (window > 0) {
      const auto seen = static_cast<size_t>(std::max(0, start - window + 1) / core::kPageTokens);
      for (size_t& i = left_behind_[g]; i < std::min(seen, tables_[g].size()); ++i) {
        index_->Release(g, tables_[g][i]);
        SetBlock(g, i, kNoBlock);
      }
    }
    while (tables_[g].size() < wanted) {
      const std::optional<BlockId> block = index_->Allocate(g);
      if (!block) return false;
      SetBlock(g, tables_[g].size(), *block);
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

void SequencePages::AddFull(std::span<const int32_t> tokens, int32_t computed) {
  while (!apart_ && static_cast<int32_t>(added_ + 1) * core::kPageTokens <= computed) {
    const std::vector<BlockId> own = BlocksAt(added_);
    std::vector<BlockId> blocks = own;
    kv_store::PrefixNode* next = index_->Extend(
        place_, tokens.subspan(added_ * core::kPageTokens, core::kPageTokens), blocks, adopts_);
    if (next == nullptr) {
      apart_ = true;
      return;
    }
    place_ = next;
    for (size_t g = 0; g < blocks.size(); ++g) {
      if (blocks[g] != own[g]) SetBlock(g, added_, blocks[g]);
    }
    ++added_;
  }
}

void SequencePages::AddTail(std::span<const int32_t> tokens, int32_t computed) {
  AddFull(tokens, computed);
  if (apart_) return;
  const size_t begin = added_ * core::kPageTokens;
  index_->AddTail(place_, tokens.subspan(begin, static_cast<size_t>(computed) - begin),
                  BlocksAt(added_));
}

void SequencePages::Release() {
  for (size_t g = 0; g < groups_->size(); ++g) {
    for (const BlockId block : tables_[g]) {
      if (block != kNoBlock) index_->Release(g, block);
    }
    if (match_.copied > 0) index_->Release(g, match_.copy_from[g]);
  }
  index_->Leave(place_);
}

}  // namespace tandem::parallel
