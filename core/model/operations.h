#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "core/base/status.h"
#include "core/model/collective.h"
#include "core/model/config.h"
#include "core/model/kv_view.h"
#include "core/model/matrix_source.h"
#include "core/model/model.h"
#include "core/model/norm.h"
#include "core/model/sampling.h"
#include "core/model/tensor.h"

namespace tandem::core {

/// A matrix as its device keeps it; only the Operations that packed it can read it.
class Weight {
 public:
  virtual ~Weight() = default;
  virtual int64_t rows() const = 0;
  virtual int64_t columns() const = 0;
  virtual int64_t bytes() const = 0;
};

/// One product of a group that shares its input: out = weight * x + bias.
struct Projection {
  const Weight* weight = nullptr;
  const WeightVector* bias = nullptr;  // [weight->rows()], or empty
  Tensor* out = nullptr;               // [tokens, weight->rows()]
};

/// Partial sums of a row-split product on their way through the all-reduce: [tokens, dim] sums
/// and [tokens] failure counts, one buffer, so that they travel together (numerics.md, rule 3).
class PartialSums {
 public:
  PartialSums(DeviceMemory& memory, int64_t dim) : values_(memory, dim), dim_(dim) {}
  /// Makes room for `tokens` rows and the failure counts behind them.
  void SetTokens(int64_t tokens) {
    tokens_ = tokens;
    values_.SetRows(tokens + (tokens + dim_ - 1) / dim_);
  }
  int64_t tokens() const { return tokens_; }
  int64_t dim() const { return dim_; }
  int64_t* sums() { return values_.data(); }                     // [tokens, dim]
  int64_t* failed() { return values_.data() + tokens_ * dim_; }  // [tokens]
  const int64_t* sums() const { return values_.data(); }
  const int64_t* failed() const { return values_.data() + tokens_ * dim_; }
  /// Everything that is reduced.
  std::span<int64_t> all() { return {values_.data(), static_cast<size_t>(tokens_ * (dim_ + 1))}; }

 private:
  Rows<int64_t> values_;
  int64_t dim_;
  int64_t tokens_ = 0;
};

/// A feed-forward block: down(activation(gate x) * up x), or down(activation(up x + up_bias)).
struct FeedForwardBlock {
  Activation kind = Activation::kSilu;
  const Weight* gate = nullptr;  // [columns, dim], and so has `up`; null: the second form
  const Weight& up;
  const WeightVector& up_bias;  // [columns] or empty; empty beside a gate
  const Weight& down;           // [dim, columns]
  int64_t partial_columns = 0;  // of a partial sum of `down`
};

/// A norm as its device keeps it. Of kBatch `weight` is the scale and `bias` the shift.
struct Norm {
  NormKind kind = NormKind::kRms;
  float epsilon = 0.0F;  // nothing of kBatch
  WeightVector weight;   // [n]
  WeightVector bias;     // [n], or empty

  bool empty() const { return weight.empty(); }  // the model has none here
};

/// Where rows of the embedding come from: [vocab, dim] and, in models that learned their positions,
/// [context, dim], of the model's file.
struct EmbeddingTables {
  MatrixSource tokens;
  MatrixSource positions;  // rows 0: none
};

/// What attention needs to know of a layer.
struct AttentionLayer {
  int layer = 0;
  int window = 0;  // 0 = full attention
  bool local_rope = false;
  /// Infini-attention: the part of the memory in what each query head of the rank gives, in [0, 1].
  /// Empty: the layer has none.
  std::vector<float> memory_gates = {};

  bool remembers() const { return !memory_gates.empty(); }
};

/// The operations that a forward pass is written in. CPU and CUDA implement them; nobody above
/// core/ asks which.
///
/// A device only enqueues. Sample, Score, TokenFailures, AwaitKept, TakeKept and ReadRows alone
/// wait for it; a step without asked-for logits reads back its sampled tokens and its failures, and
/// every shape follows from the plan. A device that fails throws DeviceFailure (device_failure.h).
/// Thread safety: one thread calls.
class Operations {
 public:
  virtual ~Operations() = default;
  virtual std::string_view device_name() const = 0;
  virtual DeviceMemory& memory() = 0;
  /// As Model has it.
  virtual void ParallelFor(int64_t tasks, absl::FunctionRef<void(int64_t task)> body) {
    for (int64_t task = 0; task < tasks; ++task) body(task);
  }

  /// Rows x columns of a matrix of the file, in the form in which this device multiplies it.
  virtual absl::StatusOr<std::unique_ptr<Weight>> Pack(const MatrixSource& source, Range rows,
                                                       Range columns) = 0;

  /// Begins a step: positions and block tables of the batch, for RotateAndStore and Attend; no
  /// token has failed yet; the times of products and reductions go to batch.phases.
  virtual void BeginStep(const Batch& batch) = 0;

  /// Everything from here to EndPass follows from the shape of the step, and nothing is read
  /// meanwhile: a device may hold it back and do it at once. After BeginStep. `collective`: of the
  /// pass.
  virtual void BeginPass(const Collective& collective) { static_cast<void>(collective); }
  virtual void EndPass() {}
  /// Ends a pass that an error ended, instead of EndPass: its results are not used.
  virtual void AbandonPass() noexcept {}

  /// These are the tables of the model, which outlive the operations: before the first Embed.
  virtual void PrepareEmbedding(const EmbeddingTables& tables) { static_cast<void>(tables); }
  /// out[t] = table[tokens[t]] * scale (+ positions[position of t], where it has rows)
  virtual void Embed(const EmbeddingTables& tables, std::span<const int32_t> tokens, float scale,
                     Tensor& out) = 0;
  /// Normalizes row by row; out may be x
  virtual void Normalize(const Tensor& x, const Norm& norm, Tensor& out) = 0;
  /// The same over each head's part of every row, in place. norm: [head_dim], kRms
  virtual void NormHeads(Tensor& x, const Norm& norm) = 0;
  /// Products that share an input; sets the rows of the outputs.
  virtual void Linear(const Tensor& x, std::initializer_list<Projection> projections) = 0;
  /// Rotates queries and keys by position, and writes keys and values to the cache. In a layer that
  /// remembers, nothing is rotated.
  /// query: [tokens, heads * head_dim], in place; key, value: [tokens, kv_heads * head_dim]
  virtual void RotateAndStore(const AttentionLayer& layer, Tensor& query, Tensor& key,
                              const Tensor& value, const KvView& cache) = 0;
  /// Attention of every query head of this rank. In a layer that remembers, with what it remembers;
  /// the states of segments that the step ends are written.
  virtual void Attend(const AttentionLayer& layer, const Tensor& query, const KvView& cache,
                      Tensor& out) = 0;
  /// This rank's part of a row-split product, partial sum by partial sum. Sets the tokens of out.
  virtual void LinearPartialSums(const Weight& weight, const Tensor& x, int64_t partial_columns,
                                 PartialSums& out) = 0;
  /// LinearPartialSums of `down` and what the block makes of x before it.
  virtual void FeedForwardPartialSums(const Tensor& x, const FeedForwardBlock& block,
                                      PartialSums& out) = 0;
  virtual absl::Status AllReduce(PartialSums& sums, Collective& collective,
                                 const StepPhase& phase) = 0;
  /// x += norm(float(sums) + bias); bias and norm only where they are not empty. Marks tokens whose
  /// failure count is not zero, on the device.
  virtual void AddPartialSums(const PartialSums& sums, const WeightVector& bias,
                              const Norm& post_norm, Tensor& x) = 0;
  /// out[i] = x[rows[i]]
  virtual void SelectRows(const Tensor& x, std::span<const int32_t> rows, Tensor& out) = 0;
  /// Samples a token for each of `rows`, where the logits are: core/sampling/sample_rows.h has
  /// the rules. Penalties change the logits of rows that are not scored. logits: [rows of the step,
  /// vocab_rows.count]
  virtual absl::Status Sample(Tensor& logits, Range vocab_rows, std::span<const SampleRow> rows,
                              Collective& collective, const StepPhase& phase,
                              std::span<SampledToken> out) = 0;
  /// Log-probabilities, where the logits are: core/sampling/logprobs.h has the rules.
  virtual absl::Status Score(Tensor& logits, Range vocab_rows, std::span<const ScoreRow> rows,
                             Collective& collective, const StepPhase& phase,
                             std::span<TokenScore> out) = 0;
  /// Which tokens of the step have failed so far: [tokens], 1 = failed. Host memory, good until the
  /// next step.
  virtual std::span<const uint8_t> TokenFailures() = 0;
  // As Model has them.
  virtual bool passes_ahead() const { return false; }
  virtual bool CanKeep(std::span<const SampleRow> rows, const Collective& collective) const {
    static_cast<void>(rows);
    static_cast<void>(collective);
    return false;
  }
  /// logits: as Sample has them.
  virtual absl::Status Keep(Tensor& logits, Range vocab_rows, std::span<const SampleRow> rows,
                            Collective& collective, const StepPhase& phase) {
    static_cast<void>(logits);
    static_cast<void>(vocab_rows);
    static_cast<void>(rows);
    static_cast<void>(collective);
    static_cast<void>(phase);
    return absl::OkStatus();
  }
  virtual absl::Status AwaitKept(absl::FunctionRef<bool()> until) {
    static_cast<void>(until);
    return absl::OkStatus();
  }
  virtual KeptResults TakeKept() { return {}; }
  /// Copies some rows to the host, `stride` floats apart.
  virtual void ReadRows(const Tensor& x, Range rows, float* out, int64_t stride) = 0;
};

}  // namespace tandem::core
