#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/base/status.h"
#include "core/model/collective.h"
#include "core/sampling/shard_logits.h"

namespace tandem::core {

/// A row over which all ranks sum: over blocks of kSumRows vocabulary rows, which the shards cut.
struct RowToSum {
  int64_t row = 0;            // of the logits of the step
  int64_t largest_shard = 0;  // vocabulary rows; sets the size of the gather
};

/// What all ranks know of its blocks.
struct RowSums {
  std::vector<double> sums;      // by block; those that no rank has whole are 0, or not there
  std::vector<Candidate> edges;  // ascending by token: the rows of those blocks
};

/// One gather of the sums of the blocks that a shard has whole, and of the logits of other rows.
/// sum_blocks: given room for the sums of each of `rows`, [WholeBlocks(vocab_rows).count], in
/// order. out: [rows.size()]. Errors: those of the collective.
absl::Status GatherSums(std::span<const RowToSum> rows, ShardLogits& logits, Collective& collective,
                        const StepPhase& phase, ParallelTasks parallel_for,
                        absl::FunctionRef<void(std::span<const std::span<double>> sums)> sum_blocks,
                        std::span<RowSums> out);

}  // namespace tandem::core
