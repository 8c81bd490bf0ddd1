#pragma once

#include <cstdint>

#include "core/cuda/kernels/cuda_stream.h"
#include "core/sampling/logit_math.h"

/// What sampling does with logits where they are (core/sampling/shard_logits.h), for many rows at
/// once, with the same bits as on a CPU. All pointers are to memory of the device, and work is put
/// into `stream`. Thread safety: any thread.
namespace tandem::core {

/// A shard's logits of a step.
struct LogitRows {
  const float* data = nullptr;  // [rows, columns]
  int64_t columns = 0;
  int64_t first_token = 0;
};

/// values[i] = the logit at places[i]. [count]
void LaunchKeep(CudaStream stream, const int64_t* places, int64_t count, const float* logits,
                float* values);
/// The logit at places[i] = values[i]. places: each another one. [count]
void LaunchRestore(CudaStream stream, const int64_t* places, const float* values, int64_t count,
                   float* logits);

/// Something for one logit.
struct LogitChange {
  int64_t at = 0;  // of all logits of the step
  float value = 0.0F;
};

/// Adds each value. changes: [count], ascending by place; those of one place are added in order.
void LaunchAddBiases(CudaStream stream, const LogitChange* changes, int64_t count, float* logits);

/// PenalizedLogit by each value. changes: [count], each of another place.
void LaunchPenalize(CudaStream stream, const LogitChange* changes, int64_t count, float* logits);

/// WithheldLogit at each place. changes: [count], whose values do not matter.
void LaunchWithhold(CudaStream stream, const LogitChange* changes, int64_t count, float* logits);

/// A row whose best candidates are wanted: `count` of them, at `first` of what is given out.
struct SelectedRow {
  int64_t row = 0;
  int64_t first = 0;
  int32_t count = 0;
};

/// Keys that LaunchSelectCandidates needs for each row.
int64_t SelectionKeys(int64_t columns, int32_t most);

/// SelectCandidates (core/sampling/sampler.h) of each row, best first. rows: [count]; most: at
/// least the count of each; keys: [count, SelectionKeys()], changed.
void LaunchSelectCandidates(CudaStream stream, const LogitRows& logits, const SelectedRow* rows,
                            int64_t count, int32_t most, uint64_t* keys, Candidate* out);

/// tokens[i] = the best of the candidates that each rank has for row i, or -1 where that fails: as
/// SampleToken for a temperature of 0. candidates: [ranks, count]; tokens: [count]
void LaunchChooseBest(CudaStream stream, const Candidate* candidates, int64_t ranks, int64_t count,
                      int32_t* tokens);

/// A row whose weights are summed.
struct SummedRow {
  int64_t row = 0;
  Softmax softmax = {};
};

/// The sums of weights of `blocks` blocks of kSumRows columns, the first of which begins at a
/// column. rows: [count]; out: [count, blocks]
void LaunchSumBlocks(CudaStream stream, const LogitRows& logits, const SummedRow* rows,
                     int64_t count, SumOrder order, int64_t first_column, int64_t blocks,
                     double* out);

/// Consecutive logits that are wanted at `to` of what is given out.
struct LogitPart {
  int64_t from = 0;  // of all logits of the step
  int64_t to = 0;
  int64_t count = 0;
};

/// parts: [count]
void LaunchReadParts(CudaStream stream, const LogitRows& logits, const LogitPart* parts,
                     int64_t count, float* out);

}  // namespace tandem::core
