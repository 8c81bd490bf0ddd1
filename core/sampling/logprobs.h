#pragma once

#include <cstdint>
#include <span>

#include "core/base/status.h"
#include "core/model/collective.h"
#include "core/model/sampling.h"
#include "core/sampling/shard_logits.h"

namespace tandem::core {

/// Log-probabilities of the token of each row and of its likeliest ones (all, if the vocabulary has
/// fewer), the same bits on every rank and processor, and for every cut of the vocabulary.
///
/// In detail: logprob = (x - max) - log(sum of exp(x - max)), all in double but exp, which is
/// float32 of a float32 difference, and rounded to float32 once (the lowest one where it is below
/// that). A sum over the vocabulary goes by blocks of 1024 rows, each as SumInLanes (lane_sums.h)
/// has it; then the blocks in order (numerics.md, rules 5 and 7).
///
/// Two gathers: of the likeliest tokens and the asked-for one, and of the sums of blocks, with the
/// logits of those that shards cut. Without rows no collective is called. out: [rows.size()].
/// Errors: those of the collective.
absl::Status ScoreRows(std::span<const ScoreRow> rows, ShardLogits& logits, Collective& collective,
                       const StepPhase& phase, ParallelTasks parallel_for,
                       std::span<TokenScore> out);

}  // namespace tandem::core
