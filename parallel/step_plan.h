#pragma once

#include <cstdint>
#include <vector>

#include "core/kv_view.h"
#include "core/sampler.h"

namespace tandem::parallel {

/// A place for one running sequence. Every rank keeps the slot's sampling parameters, its tokens so
/// far and its block tables, and changes them only as plans say.
using SlotId = int32_t;

/// A sequence begins: the slot is empty from here on.
struct OpenedSlot {
  SlotId slot = 0;
  core::SamplingParams sampling;
  int32_t candidates_per_rank = 1;  // core::CandidatesPerRank; sets the size of the gather
  uint64_t first_token_index = 0;   // index of the first token that will be sampled
  bool operator==(const OpenedSlot& other) const;
};

/// One entry of a block table becomes `block` (kNoBlock: the window left it behind). `index` is at
/// most the table's size; equal to it, the table grows.
struct BlockChange {
  int32_t index = 0;
  core::BlockId block = core::kNoBlock;
  bool operator==(const BlockChange&) const = default;
};

/// Consecutive tokens of one sequence in a step.
struct SequenceWork {
  SlotId slot = 0;
  int32_t start_position = 0;
  /// The tokens' ids; none: one token, the one that this slot sampled last. So a plan can leave
  /// before the step ahead of it has sampled.
  std::vector<int32_t> tokens;
  std::vector<std::vector<BlockChange>> table_changes;  // [layer groups], made before the pass
  bool sample = false;                                  // a token after the last of these
  bool gather_logits = false;                           // logits of all these tokens go to rank 0
  bool operator==(const SequenceWork&) const = default;

  int32_t token_count() const { return tokens.empty() ? 1 : static_cast<int32_t>(tokens.size()); }
};

/// All that a rank needs to know to do a step together with the others: the number and sizes of
/// collectives, and every allocation, follow from it and the plans before it alone. Only the
/// coordinator decides when a sequence ends, so stop tokens and limits are not in it.
///
/// Order of execution: closed, opened, then per sequence the table changes and history, the forward
/// pass, one gather of prompt logits if any sequence asks, one gather of candidates if any samples.
struct StepPlan {
  uint64_t epoch = 0;  // a number for one life of the rank job
  uint64_t step = 0;   // from 1, without gaps
  bool stop = false;   // the ranks end; nothing else is done
  std::vector<SlotId> closed;
  std::vector<OpenedSlot> opened;
  std::vector<SequenceWork> sequences;  // at most one per slot
  bool operator==(const StepPlan&) const = default;
};

}  // namespace tandem::parallel
