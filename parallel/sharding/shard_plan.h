#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/base/status.h"
#include "core/model/config.h"
#include "core/model/shard.h"

namespace tandem::parallel {

/// Bytes of weights that one token reads, summed over all layers. Exact in double: block formats
/// have 1/32 or 1/256 of a byte at the least. Filled from a model file by model_costs.h.
struct ModelCosts {
  double query_head = 0;  // rows of the query projection and columns of the attention output
  double kv_head = 0;     // rows of the key and value projections
  double ffn_column = 0;  // rows of gate and up, column of down
  double vocab_row = 0;   // row of the output head
  double every_rank = 0;  // held by each rank whatever its shard: norms, biases of the output
};

struct PlanOptions {
  int ranks = 1;
  std::vector<double> weights = {};  // [ranks] relative speeds, > 0; empty: equal
  std::vector<int64_t> memory = {};  // [ranks] bytes of weights a rank can hold; empty: no limit
  /// The query heads of a KV head stay on one rank, where there are enough KV heads and the memory
  /// allows it.
  bool whole_groups = false;
};

/// Bytes of weights on one rank.
struct RankBytes {
  double attention = 0;
  double feed_forward = 0;
  double vocabulary = 0;
  double every_rank = 0;
  double total() const { return attention + feed_forward + vocabulary + every_rank; }
};

/// One phase of a step, in bytes over relative speed. The ranks meet at its end, so the slowest
/// rank sets its time. ideal: the time if the bytes could be cut anywhere, without copies.
struct PhaseTime {
  double slowest = 0;
  double ideal = 0;
  int slowest_rank = 0;
};

/// Who holds what, and what it is expected to cost.
struct ShardPlan {
  std::vector<core::Shard> shards;  // [ranks]
  std::vector<RankBytes> bytes;     // [ranks]
  std::vector<double> weights;      // [ranks] as planned with
  PhaseTime attention;
  PhaseTime feed_forward;
  PhaseTime vocabulary;

  int ranks() const { return static_cast<int>(shards.size()); }
  /// Predicted time of a step over the ideal: 0.04 is 4 % longer. Waiting for messages is not in
  /// it.
  double time_over_ideal() const;
  /// The same without the vocabulary.
  double layer_time_over_ideal() const;
};

/// The largest number of ranks that this model can be cut into: its query heads, in whole partial
/// sums of the attention output (core::ModelConfig::heads_per_partial_sum).
int LargestRankCount(const core::ModelConfig& config);

/// Cuts the model over the ranks.
///
/// Every rank gets contiguous query heads (at least one partial sum) with the KV heads they need,
/// feed-forward columns in whole partial sums and vocabulary rows in multiples of 16; of the last
/// two perhaps none. The predicted step time, which is the sum over the phases of the slowest
/// rank's time, is as small as it can be; of equally fast cuts the one that copies the fewest KV
/// heads wins, then the most even one. Where memory is short, cuts that share each rank's memory
/// differently among the phases are compared, and the fastest of them is taken. Deterministic:
/// every rank makes the same plan from the same input. Errors: kInvalidArgument for bad weights;
/// kOutOfRange for more ranks than the model can be cut into, saying how many work;
/// kResourceExhausted if the memory does not hold it.
absl::StatusOr<ShardPlan> PlanShards(const core::ModelConfig& config, const ModelCosts& costs,
                                     const PlanOptions& options);

/// Checks that every query head, column and row is held exactly once, in rank order, at legal cuts,
/// with exactly the KV heads that are needed. The error names the rank.
absl::Status CheckPlan(const core::ModelConfig& config, std::span<const core::Shard> shards);

/// KV heads that a range of query heads needs.
core::Range KvHeadsOf(const core::ModelConfig& config, core::Range query_heads);

/// Ranks that hold a KV head; the first of them records it. Contiguous.
core::Range HoldersOfKvHead(std::span<const core::Shard> shards, int64_t kv_head);

/// KV heads that rank `rank` records: those it holds and no lower rank does.
core::Range RecordedKvHeads(std::span<const core::Shard> shards, int rank);

/// Vocabulary rows of the largest shard, from which the size of gathers follows.
int64_t LargestVocabShard(std::span<const core::Shard> shards);

/// A number that differs for different plans; ranks compare it at startup.
uint64_t PlanHash(std::span<const core::Shard> shards);

}  // namespace tandem::parallel
