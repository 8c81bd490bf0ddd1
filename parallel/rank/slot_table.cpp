#include "parallel/rank/slot_table.h"

#include <algorithm>
#include <unordered_map>

#include "kv_store/pages/pool_size.h"

namespace tandem::parallel {

SlotTable::SlotTable(int32_t slots, std::vector<core::KvLayerGroup> groups,
                     std::vector<int64_t> blocks, int32_t vocab, std::vector<int64_t> host_blocks)
    : groups_(std::move(groups)),
      blocks_(std::move(blocks)),
      host_blocks_(std::move(host_blocks)),
      vocab_(vocab),
      slots_(static_cast<size_t>(slots)) {}

absl::Status SlotTable::CheckSlot(SlotId slot, const char* what) const {
  if (slot >= 0 && static_cast<size_t>(slot) < slots_.size()) return absl::OkStatus();
  return Internal("step plan: {} slot {} is not one of the {} slots", what, slot, slots_.size());
}

absl::Status SlotTable::CheckTokens(SlotId slot, const std::vector<int32_t>& tokens) const {
  for (const int32_t token : tokens) {
    if (token < 0 || token >= vocab_) {
      return Internal("step plan: slot {}: token {} is outside the vocabulary of {}", slot, token,
                      vocab_);
    }
  }
  return absl::OkStatus();
}

absl::Status SlotTable::CheckOpened(const OpenedSlot& opened) const {
  if (opened.candidates_per_rank < 1 || opened.candidates_per_rank > vocab_) {
    return Internal("step plan: slot {}: {} candidates a rank of a vocabulary of {}", opened.slot,
                    opened.candidates_per_rank, vocab_);
  }
  return CheckTokens(opened.slot, opened.history);
}

absl::Status SlotTable::CheckCopy(const BlockCopy& copy) const {
  if (copy.group < 0 || static_cast<size_t>(copy.group) >= groups_.size()) {
    return Internal("step plan: a copy in layer group {} of {}", copy.group, groups_.size());
  }
  const int64_t blocks = blocks_[static_cast<size_t>(copy.group)];
  if (copy.from < 0 || copy.from >= blocks || copy.to < 0 || copy.to >= blocks ||
      copy.from == copy.to) {
    return Internal("step plan: layer group {}: copy of block {} to {} in a pool of {}", copy.group,
                    copy.from, copy.to, blocks);
  }
  return absl::OkStatus();
}

absl::Status SlotTable::CheckBlocks(const std::vector<core::BlockId>& blocks,
                                    const char* what) const {
  if (blocks.size() != groups_.size()) {
    return Internal("step plan: a {} of {} layer groups, expected {}", what, blocks.size(),
                    groups_.size());
  }
  for (size_t g = 0; g < blocks.size(); ++g) {
    if (blocks[g] != core::kNoBlock && (blocks[g] < 0 || blocks[g] >= blocks_[g])) {
      return Internal("step plan: layer group {}: {} of block {} in a pool of {}", g, what,
                      blocks[g], blocks_[g]);
    }
  }
  return absl::OkStatus();
}

absl::Status SlotTable::CheckSpilled(const std::vector<SpilledBlock>& blocks) const {
  for (const SpilledBlock& at : blocks) {
    const auto g = static_cast<size_t>(at.group);
    if (at.group < 0 || g >= host_blocks_.size() || at.block < 0 || at.block >= blocks_[g] ||
        at.host < 0 || at.host >= host_blocks_[g]) {
      return Internal("step plan: layer group {} of {}: block {} and block {} of the host tier",
                      at.group, host_blocks_.size(), at.block, at.host);
    }
  }
  return absl::OkStatus();
}

absl::Status SlotTable::CheckMove(const PageMove& move) const {
  if (const auto* copy = std::get_if<BlockCopy>(&move)) return CheckCopy(*copy);
  if (const auto* load = std::get_if<BlockLoad>(&move)) return CheckBlocks(load->blocks, "load");
  if (const auto* spill = std::get_if<PageSpill>(&move)) return CheckSpilled(spill->blocks);
  return CheckSpilled(std::get<PageReturn>(move).blocks);
}

absl::Status SlotTable::CheckRecords(const StepPlan& plan) const {
  const auto check_tokens = [](int32_t tokens, const char* what) {
    return tokens >= 1 && tokens <= core::kPageTokens
               ? absl::OkStatus()
               : Internal("step plan: a {} of {} tokens, expected 1 to {}", what, tokens,
                          core::kPageTokens);
  };
  for (const BlockSave& save : plan.saves) {
    TANDEM_RETURN_IF_ERROR(check_tokens(save.tokens, "save"));
    TANDEM_RETURN_IF_ERROR(CheckBlocks(save.blocks, "save"));
  }
  for (const PageMove& move : plan.moves) {
    TANDEM_RETURN_IF_ERROR(CheckMove(move));
  }
  for (const BlockFetch& fetch : plan.fetches) {
    for (const FetchBlock& block : fetch.blocks) {
      TANDEM_RETURN_IF_ERROR(check_tokens(block.tokens, "fetch"));
      if ((uint64_t{block.groups} >> groups_.size()) != 0) {
        return Internal("step plan: a fetch of layer groups {:#x} of {}", block.groups,
                        groups_.size());
      }
    }
  }
  return absl::OkStatus();
}

absl::Status SlotTable::CheckTable(const SequenceWork& work, const SlotState& state,
                                   size_t group) const {
  // Tables grow with the sequence, so nothing here looks at all of one: what changes, and what is
  // seen.
  const std::vector<core::BlockId> none;
  const std::vector<core::BlockId>& table = state.tables.empty() ? none : state.tables[group];
  auto size = static_cast<int64_t>(table.size());
  std::unordered_map<int64_t, core::BlockId> changed;
  for (const BlockChange& change : work.table_changes[group]) {
    if (change.index < 0 || change.index > size) {
      return Internal("step plan: slot {}, layer group {}: table entry {} of {}", work.slot, group,
                      change.index, size);
    }
    if (change.block != core::kNoBlock && (change.block < 0 || change.block >= blocks_[group])) {
      return Internal("step plan: slot {}, layer group {}: block {} of a pool of {}", work.slot,
                      group, change.block, blocks_[group]);
    }
    size = std::max(size, int64_t{change.index} + 1);
    changed[change.index] = change.block;
  }
  const int64_t end = int64_t{work.start_position} + work.token_count();
  if (size < kv_store::BlocksFor(end)) {
    return Internal("step plan: slot {}, layer group {}: {} blocks do not reach position {}",
                    work.slot, group, size, end - 1);
  }
  const auto check = [&](int64_t first, int64_t last) -> absl::Status {
    for (int64_t i = first; i < last; ++i) {
      const auto change = changed.empty() ? changed.end() : changed.find(i);
      const core::BlockId block =
          change != changed.end() ? change->second : table[static_cast<size_t>(i)];
      if (block != core::kNoBlock || !groups_[group].Holds(i)) continue;
      return Internal("step plan: slot {}, layer group {}: no block for position {}", work.slot,
                      group, i * core::kPageTokens);
    }
    return absl::OkStatus();
  };
  const kv_store::SeenGlobalBlocks global =
      kv_store::GlobalBlocks(groups_[group], work.start_position);
  TANDEM_RETURN_IF_ERROR(check(global.begin, global.end));
  return check(kv_store::FirstSeenBlock(groups_[group], work.start_position),
               kv_store::BlocksFor(end));
}

absl::Status SlotTable::CheckWork(const SequenceWork& work, const SlotState& state) const {
  const int64_t known = std::ssize(state.history) + state.pending;
  if (state.pending > 0 && !work.tokens.empty()) {
    return Internal("step plan: slot {} is given tokens behind one that is being sampled",
                    work.slot);
  }
  // The last sampled token is in the history already; given tokens come after it.
  const int64_t expected_start = work.tokens.empty() ? known - 1 : known;
  if (work.start_position != expected_start || expected_start < 0) {
    return Internal("step plan: slot {} starts at position {}, expected {} ({} tokens known)",
                    work.slot, work.start_position, expected_start, known);
  }
  TANDEM_RETURN_IF_ERROR(CheckTokens(work.slot, work.tokens));
  TANDEM_RETURN_IF_ERROR(CheckTokens(work.slot, work.drafts));
  if (work.top < 0 || work.next_token < 0 || work.next_token >= vocab_) {
    return Internal("step plan: slot {}: {} best tokens and token {} are to be scored", work.slot,
                    work.top, work.next_token);
  }
  if (!work.drafts.empty() && !work.sample) {
    return Internal("step plan: slot {} has {} drafts and samples nothing", work.slot,
                    work.drafts.size());
  }
  if (work.table_changes.size() != groups_.size()) {
    return Internal("step plan: slot {}: tables of {} layer groups, expected {}", work.slot,
                    work.table_changes.size(), groups_.size());
  }
  for (size_t group = 0; group < groups_.size(); ++group) {
    TANDEM_RETURN_IF_ERROR(CheckTable(work, state, group));
  }
  return absl::OkStatus();
}

absl::Status SlotTable::Apply(const StepPlan& plan) {
  std::vector<bool> open(slots_.size());
  std::vector<SlotState> fresh(slots_.size());
  std::vector<bool> busy(slots_.size(), false);
  for (size_t s = 0; s < slots_.size(); ++s) open[s] = slots_[s].open;
  for (const SlotId s : plan.closed) {
    TANDEM_RETURN_IF_ERROR(CheckSlot(s, "closed"));
    if (!open[static_cast<size_t>(s)]) return Internal("step plan: slot {} closed twice", s);
    open[static_cast<size_t>(s)] = false;
  }
  for (const OpenedSlot& opened : plan.opened) {
    TANDEM_RETURN_IF_ERROR(CheckSlot(opened.slot, "opened"));
    const auto s = static_cast<size_t>(opened.slot);
    if (open[s]) return Internal("step plan: slot {} opened twice", opened.slot);
    TANDEM_RETURN_IF_ERROR(CheckOpened(opened));
    open[s] = true;
    fresh[s] = {.open = true,
                .sampling = opened.sampling,
                .candidates_per_rank = opened.candidates_per_rank,
                .next_token_index = opened.first_token_index,
                .history = opened.history,
                .tables = std::vector<std::vector<core::BlockId>>(groups_.size())};
  }
  TANDEM_RETURN_IF_ERROR(CheckRecords(plan));
  for (const SequenceWork& work : plan.sequences) {
    TANDEM_RETURN_IF_ERROR(CheckSlot(work.slot, "working"));
    const auto s = static_cast<size_t>(work.slot);
    if (!open[s]) return Internal("step plan: slot {} has work but is not open", work.slot);
    if (busy[s]) return Internal("step plan: slot {} has work twice", work.slot);
    busy[s] = true;
    TANDEM_RETURN_IF_ERROR(CheckWork(work, fresh[s].open ? fresh[s] : slots_[s]));
  }

  for (const SlotId s : plan.closed) slot(s) = SlotState();
  for (const OpenedSlot& opened : plan.opened) {
    slot(opened.slot) = std::move(fresh[static_cast<size_t>(opened.slot)]);
    slot(opened.slot).opening = ++openings_;
  }
  for (const SequenceWork& work : plan.sequences) {
    SlotState& state = slot(work.slot);
    state.history.insert(state.history.end(), work.tokens.begin(), work.tokens.end());
    for (size_t group = 0; group < groups_.size(); ++group) {
      auto& table = state.tables[group];
      for (const BlockChange& change : work.table_changes[group]) {
        const auto index = static_cast<size_t>(change.index);
        if (index == table.size()) table.push_back(core::kNoBlock);
        table[index] = change.block;
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace tandem::parallel
