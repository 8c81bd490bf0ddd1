#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "core/base/phase_times.h"
#include "core/base/status.h"
#include "core/model/collective.h"
#include "core/model/config.h"
#include "core/model/device_memory.h"
#include "core/model/kv_view.h"
#include "core/model/sampling.h"
#include "core/model/shard.h"

namespace tandem::core {

/// Consecutive tokens of one sequence in a batch.
struct SequenceSlice {
  int32_t first_token = 0;  // index into Batch::tokens
  int32_t tokens = 0;
  int32_t start_position = 0;  // absolute position of the first of them
  std::vector<std::span<const BlockId>>
      block_tables;  // [layer groups][positions / 64]; covers start_position + tokens
};

/// In the place of a token's id: what row `row` of those gave that were kept last (Model::Keep),
/// which the host need not know.
constexpr int32_t KeptToken(int32_t row) { return -1 - row; }
/// The row of a KeptToken, or -1 for an id.
constexpr int32_t KeptRow(int32_t token) { return token < 0 ? -1 - token : -1; }

/// What a pass gave whose results were kept.
struct KeptResults {
  std::span<const uint8_t> failures;  // [tokens] as TokenFailures
  std::span<const int32_t> sampled;   // [rows] a token, or -1: nothing (SampledToken)
};

/// One step's work, as the forward pass sees it.
struct Batch {
  uint64_t step = 0;                // for StepPhase
  std::span<const int32_t> tokens;  // [n] ids or KeptTokens, sequence after sequence
  std::span<const SequenceSlice> sequences;
  std::span<const int32_t> logit_tokens;  // ascending indices into `tokens` whose logits are wanted
  PhaseClock* phases = nullptr;           // where to keep the time of each phase, if anywhere
};

/// A model's shard on one rank, ready to run. The step loop knows no more of it than this, so it is
/// tested with a fake. A device that fails is kUnavailable, of any method. Thread safety: one
/// thread calls.
class Model {
 public:
  virtual ~Model() = default;
  virtual const ModelConfig& config() const = 0;
  virtual const Shard& shard() const = 0;
  /// Bytes of packed weights this rank holds.
  virtual int64_t weight_bytes() const = 0;

  /// Where its cache belongs.
  virtual DeviceMemory& memory() = 0;

  /// Runs every layer over the batch, writing K and V of its tokens to the cache and reading what
  /// stands there. The logits stay on the device: [logit_tokens, vocab_rows.count], until the next
  /// pass. Errors are those of the collective; a token's numeric failure is a flag, not an error,
  /// and equal on all ranks.
  virtual absl::Status Forward(const Batch& batch, const KvView& cache, Collective& collective) = 0;

  // Of the last pass.

  /// Samples a token for each of `rows`, the same on every rank. Changes the logits of those that
  /// are not scored. out: [rows.size()]. Errors are those of the collective.
  virtual absl::Status Sample(std::span<const SampleRow> rows, Collective& collective,
                              const StepPhase& phase, std::span<SampledToken> out) = 0;
  /// Log-probabilities of tokens, the same on every rank. out: [rows.size()]. Errors are those of
  /// the collective.
  virtual absl::Status Score(std::span<const ScoreRow> rows, Collective& collective,
                             const StepPhase& phase, std::span<TokenScore> out) = 0;
  /// Copies rows of this shard's logits to the host, `stride` floats apart.
  virtual absl::Status ReadLogits(Range rows, float* out, int64_t stride) = 0;
  /// [tokens] 1 = a partial sum was not finite or out of range (numerics.md, rule 3), on some rank.
  virtual absl::StatusOr<std::span<const uint8_t>> TokenFailures() = 0;

  // Passes that begin while the device computes the one before. Of that one, the results are kept:
  // Keep takes the place of Sample, Score, ReadLogits and TokenFailures, and TakeKept gives them.

  /// Whether any pass can be kept.
  virtual bool passes_ahead() const { return false; }
  /// Whether a pass can be kept whose logits are all for `rows`. Ranks may differ in it.
  virtual bool CanKeep(std::span<const SampleRow> rows, const Collective& collective) const {
    static_cast<void>(rows);
    static_cast<void>(collective);
    return false;
  }
  /// Puts the sampling of `rows` behind the last pass, and keeps what it gives; waits for nothing.
  /// It calls what Sample would. At most two passes are kept. Errors are those of the collective.
  virtual absl::Status Keep(std::span<const SampleRow> rows, Collective& collective,
                            const StepPhase& phase) {
    static_cast<void>(rows);
    static_cast<void>(collective);
    static_cast<void>(phase);
    return absl::OkStatus();
  }
  /// Waits until the oldest pass that is kept is done, or until() says so; that may begin a pass.
  virtual absl::Status AwaitKept(absl::FunctionRef<bool()> until) {
    static_cast<void>(until);
    return absl::OkStatus();
  }
  /// The oldest pass that is kept, once it is done. Good until the next pass is kept.
  virtual absl::StatusOr<KeptResults> TakeKept() { return KeptResults(); }

  /// Between passes: body(task) for every task in [0, tasks), on the threads that compute, where
  /// the processor does that; else one after the other. Returns when all are done.
  virtual void ParallelFor(int64_t tasks, absl::FunctionRef<void(int64_t task)> body) {
    for (int64_t task = 0; task < tasks; ++task) body(task);
  }
};

/// Layer groups of a model, in the order of a sequence's block tables.
std::vector<KvLayerGroup> LayerGroups(const ModelConfig& config);

}  // namespace tandem::core
