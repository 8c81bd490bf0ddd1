#pragma once

#include <cstdint>
#include <vector>

#include "core/base/status.h"
#include "core/model/kv_view.h"
#include "core/sampling/sampler.h"
#include "parallel/plan/step_plan.h"

namespace tandem::parallel {

/// What every rank remembers of one running sequence.
struct SlotState {
  bool open = false;
  core::SamplingParams sampling;
  int32_t candidates_per_rank = 1;
  uint64_t next_token_index = 0;  // of the next token to be sampled
  std::vector<int32_t> history;   // tokens of positions 0, 1, ... that are known
  int32_t pending = 0;            // tokens behind them that the device has sampled, or will
  int32_t pending_row = 0;        // core::KeptToken, of the last of these
  uint64_t opening = 0;           // another number each time that any slot is opened
  std::vector<std::vector<core::BlockId>> tables;  // [layer groups][positions / 64]

  /// The device samples one more, in this row of those that are kept.
  void AddPending(int32_t row) {
    ++pending;
    pending_row = row;
  }
};

/// The slots as the plans so far have made them, the same on every rank.
///
/// A plan is checked in full against the state before anything is changed, so that one that does
/// not fit is refused by every rank alike, before any collective. Thread safety: none.
class SlotTable {
 public:
  /// groups, blocks: [layer groups]; blocks is the size of the pool, host_blocks of the host tier;
  /// empty: there is none.
  SlotTable(int32_t slots, std::vector<core::KvLayerGroup> groups, std::vector<int64_t> blocks,
            int32_t vocab, std::vector<int64_t> host_blocks = {});

  /// Applies closed and opened slots, table changes and explicit tokens; checks saves, page moves
  /// and fetches, which the caller makes. Drafts do not become history: the caller adds what was
  /// sampled. kInternal, naming slot and field, for a plan that does not fit.
  absl::Status Apply(const StepPlan& plan);

  SlotState& slot(SlotId slot) { return slots_[static_cast<size_t>(slot)]; }
  const std::vector<core::KvLayerGroup>& groups() const { return groups_; }

 private:
  absl::Status CheckSlot(SlotId slot, const char* what) const;
  absl::Status CheckOpened(const OpenedSlot& opened) const;
  absl::Status CheckBlocks(const std::vector<core::BlockId>& blocks, const char* what) const;
  absl::Status CheckCopy(const BlockCopy& copy) const;
  absl::Status CheckSpilled(const std::vector<SpilledBlock>& blocks) const;
  absl::Status CheckMove(const PageMove& move) const;
  absl::Status CheckRecords(const StepPlan& plan) const;
  absl::Status CheckTokens(SlotId slot, const std::vector<int32_t>& tokens) const;
  absl::Status CheckWork(const SequenceWork& work, const SlotState& state) const;
  absl::Status CheckTable(const SequenceWork& work, const SlotState& state, size_t group) const;

  std::vector<core::KvLayerGroup> groups_;
  std::vector<int64_t> blocks_;       // [layer groups]
  std::vector<int64_t> host_blocks_;  // [layer groups], or empty
  int32_t vocab_;
  std::vector<SlotState> slots_;
  uint64_t openings_ = 0;
};

}  // namespace tandem::parallel
