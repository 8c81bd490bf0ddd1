#pragma once

#include <span>

#include "core/base/status.h"
#include "core/model/collective.h"
#include "core/sampling/shard_logits.h"

namespace tandem::core {

/// Candidates that each rank gives at first where all tokens may be drawn and top_p is set. Most
/// often the tokens that top_p keeps are among them.
inline constexpr int32_t kFewCandidates = 256;

/// Samples a token for each row, the same on every rank: penalties (which change the logits, but of
/// rows that are scored, until this returns), this shard's candidates, a gather of them, and the
/// choice among the candidates of all ranks: that of SampleToken, which is given all of
/// SampleRow::candidates.
///
/// Rows without top_k could need them all. Most often less is enough, so it is tried first:
///   1. the best token, or the kFewCandidates best where top_p is set;
///   2. the sums of the blocks of kSumRows vocabulary rows that a shard has whole, and the logits
///   of the rows of others;
///   3. without top_p, the token that is drawn from its block, by the rank that has it;
///   with top_p, while the candidates do not reach it for certain, 16 times as many, or all.
/// The sizes of 1 to 3 follow from `rows`; how often 3 goes on, from what all have gathered.
///
/// Without rows no collective is called. out: [rows.size()]. Errors: those of the collective.
absl::Status SampleRows(std::span<const SampleRow> rows, ShardLogits& logits,
                        Collective& collective, const StepPhase& phase, ParallelTasks parallel_for,
                        std::span<SampledToken> out);

}  // namespace tandem::core
