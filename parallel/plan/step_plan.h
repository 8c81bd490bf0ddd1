#pragma once

#include <cstdint>
#include <variant>
#include <vector>

#include "core/model/kv_view.h"
#include "core/sampling/sampler.h"
#include "kv_store/base/block_hash.h"

namespace tandem::parallel {

/// A place for one running sequence. Every rank keeps the slot's sampling parameters, its tokens so
/// far and its block tables, and changes them only as plans say.
using SlotId = int32_t;

/// A sequence begins: the slot is empty from here on.
struct OpenedSlot {
  SlotId slot = 0;
  core::SamplingParams sampling;
  int32_t candidates_per_rank = 1;  // core::CandidatesPerRank; sets the sizes of gathers
  uint64_t first_token_index = 0;   // index of the first token that will be sampled
  /// Tokens of positions 0, 1, ... whose pages stand already; the first work starts behind them,
  /// and its table changes name those pages.
  std::vector<int32_t> history;
  bool operator==(const OpenedSlot& other) const;
};

/// One entry of a block table becomes `block` (kNoBlock: the window left it behind). `index` is at
/// most the table's size; equal to it, the table grows.
struct BlockChange {
  int32_t index = 0;
  core::BlockId block = core::kNoBlock;
  bool operator==(const BlockChange&) const = default;
};

/// The pages of block `from` are copied into those of `to`, in all layers of a group: a sequence is
/// about to write behind tokens that others share.
struct BlockCopy {
  int32_t group = 0;
  core::BlockId from = 0;
  core::BlockId to = 0;
  bool operator==(const BlockCopy&) const = default;
};

/// One number for each fetch, from 1, never again.
using FetchId = uint64_t;

/// The pages of a block that was fetched are filled from its records, in the layer groups named.
struct BlockLoad {
  FetchId fetch = 0;
  int32_t index = 0;                  // of the fetch's blocks
  std::vector<core::BlockId> blocks;  // [layer groups]; kNoBlock: nothing is loaded there
  bool operator==(const BlockLoad&) const = default;
};

/// A block of the pool and its place in the ranks' host tier.
struct SpilledBlock {
  int32_t group = 0;  // layer group
  core::BlockId block = core::kNoBlock;
  core::BlockId host = core::kNoBlock;
  bool operator==(const SpilledBlock&) const = default;
};

/// The pages of a sequence that is preempted are copied to the host tier.
struct PageSpill {
  std::vector<SpilledBlock> blocks;
  bool operator==(const PageSpill&) const = default;
};

/// Pages come back from the host tier. Reported as those of a fetch of this number, which no other
/// fetch has (RecordReport::Kind::kLoaded).
struct PageReturn {
  FetchId id = 0;
  std::vector<SpilledBlock> blocks;
  bool operator==(const PageReturn&) const = default;
};

/// What changes pages besides the forward pass. A block may be given to somebody else between two
/// of them, so their order counts.
using PageMove = std::variant<BlockCopy, BlockLoad, PageSpill, PageReturn>;

/// A block whose records are kept (kv_store/records/record.h): each rank copies out of its pages
/// those of the KV heads that it records.
struct BlockSave {
  kv_store::BlockHash hash{};
  kv_store::BlockHash before{};  // the block that it stands on, or the tenant's
  uint64_t tenant = 0;
  int32_t tokens = 0;                 // that count, from its beginning
  std::vector<core::BlockId> blocks;  // [layer groups]; kNoBlock: its pages are gone
  bool operator==(const BlockSave&) const = default;
};

/// A block whose records are looked for.
struct FetchBlock {
  kv_store::BlockHash hash{};
  int32_t tokens = 0;
  uint32_t groups = 0;  // bit g: of layer group g; none: windows have left it behind
  bool operator==(const FetchBlock&) const = default;
};

/// Consecutive blocks whose records the ranks bring into their memory. Every rank reports how many
/// of them, from the front, it has whole and undamaged (RecordReport). It keeps them until a plan
/// ends the fetch.
struct BlockFetch {
  FetchId id = 0;
  std::vector<FetchBlock> blocks;
  bool operator==(const BlockFetch&) const = default;
};

/// Of which tokens log-probabilities are found: of those that are sampled; or of those that follow
/// each token.
enum class ScoredTokens : uint8_t { kNone, kSampled, kAll };

/// Consecutive tokens of one sequence in a step.
struct SequenceWork {
  SlotId slot = 0;
  int32_t start_position = 0;
  /// The tokens' ids. None: the one token that this slot sampled last; so a plan can leave before
  /// the step ahead of it has sampled.
  std::vector<int32_t> tokens;
  /// Guesses of what is sampled after them, computed along: a token is sampled after the last of
  /// `tokens` and after each guess that was right, up to the first wrong one. Only with `sample`.
  std::vector<int32_t> drafts;
  std::vector<std::vector<BlockChange>> table_changes;  // [layer groups], made before the pass
  bool sample = false;                                  // a token after the last of these
  bool gather = false;  // the logits of all tokens go to rank 0, as the model gave them
  ScoredTokens score = ScoredTokens::kNone;
  int32_t top = 0;         // so many likeliest tokens have their log-probabilities found, too
  int32_t next_token = 0;  // of kAll: behind the last of `tokens`, where none is sampled
  bool operator==(const SequenceWork&) const = default;

  int32_t known_count() const { return tokens.empty() ? 1 : static_cast<int32_t>(tokens.size()); }
  int32_t token_count() const { return known_count() + static_cast<int32_t>(drafts.size()); }
  /// Tokens after which one may be sampled.
  int32_t sample_rows() const { return sample ? 1 + static_cast<int32_t>(drafts.size()) : 0; }
  /// Tokens whose logits are computed: all of them, or the last ones.
  int32_t logit_rows() const {
    return gather || score == ScoredTokens::kAll ? token_count() : sample_rows();
  }
  /// Tokens after which one is scored: the last of those whose logits are computed.
  int32_t score_rows() const {
    if (score == ScoredTokens::kNone) return 0;
    return score == ScoredTokens::kAll ? token_count() : sample_rows();
  }
};

/// All that a rank needs to do a step together with the others. The number and sizes of collectives
/// and every allocation follow from this plan and the plans before it alone, but for gathers of
/// candidates, which may go on (core/sampling/sample_rows.h). Only the coordinator decides when a
/// sequence ends, so limits are not in it, and stop tokens only where sampling is to withhold them
/// at first (SamplingParams::min_tokens).
///
/// Order of execution: closed, opened, saves and then the flush mark, moves one after the other,
/// ends and beginnings of fetches, then per sequence the table changes and history, the forward
/// pass, one gather of logits if any sequence asks, gathers of candidates if any samples, two
/// gathers if any is scored. Saves, loads and fetches use no collectives; a plan may consist of
/// them alone.
struct StepPlan {
  uint64_t epoch = 0;  // a number for one life of the rank job
  uint64_t step = 0;   // from 1, without gaps
  bool stop = false;   // the ranks end; nothing else is done
  std::vector<SlotId> closed;
  std::vector<OpenedSlot> opened;
  std::vector<BlockSave> saves;
  bool flush = false;  // every rank reports when all saves up to here outlive it
  std::vector<PageMove> moves;
  std::vector<FetchId> ended_fetches;
  std::vector<BlockFetch> fetches;
  std::vector<SequenceWork> sequences;  // at most one per slot
  bool operator==(const StepPlan&) const = default;
};

}  // namespace tandem::parallel
