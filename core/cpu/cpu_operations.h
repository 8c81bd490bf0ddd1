#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "core/base/arena.h"
#include "core/base/thread_pool.h"
#include "core/cpu/attention/attention_by_chunks.h"
#include "core/cpu/attention/infini_attention.h"
#include "core/cpu/elementwise/rope_table.h"
#include "core/cpu/linear/linear.h"
#include "core/model/host_memory.h"
#include "core/model/operations.h"

namespace tandem::core {

struct CpuOptions {
  Isa isa = Isa::kScalar;
  ActivationMode activations = ActivationMode::kQ8;
  int threads = 1;
  int spin_microseconds = 30;                                 // 0 where ranks outnumber cores
  std::function<void(int worker)> on_thread_start = nullptr;  // ThreadPool's
  std::shared_ptr<PackedMemory> packed = nullptr;  // where weights lie; null: in memory of its own
};

/// The operations on a CPU: a pool of threads that divides rows, tokens and heads, never sums.
class CpuOperations final : public Operations {
 public:
  /// `config` must outlive the operations.
  CpuOperations(const ModelConfig& config, const Shard& shard, const CpuOptions& options);

  std::string_view device_name() const override { return device_name_; }
  DeviceMemory& memory() override { return memory_; }
  void ParallelFor(int64_t tasks, absl::FunctionRef<void(int64_t task)> body) override {
    pool_.ParallelFor(tasks, [&](int64_t task, int) { body(task); });
  }
  absl::StatusOr<std::unique_ptr<Weight>> Pack(const MatrixSource& source, Range rows,
                                               Range columns) override;
  void BeginStep(const Batch& batch) override;
  void Embed(const EmbeddingTables& tables, std::span<const int32_t> tokens, float scale,
             Tensor& out) override;
  void Normalize(const Tensor& x, const Norm& norm, Tensor& out) override;
  void NormHeads(Tensor& x, const Norm& norm) override;
  void Linear(const Tensor& x, std::initializer_list<Projection> projections) override;
  void RotateAndStore(const AttentionLayer& layer, Tensor& query, Tensor& key, const Tensor& value,
                      const KvView& cache) override;
  void Attend(const AttentionLayer& layer, const Tensor& query, const KvView& cache,
              Tensor& out) override;
  void LinearPartialSums(const Weight& weight, const Tensor& x, int64_t partial_columns,
                         PartialSums& out) override;
  void FeedForwardPartialSums(const Tensor& x, const FeedForwardBlock& block,
                              PartialSums& out) override;
  absl::Status AllReduce(PartialSums& sums, Collective& collective,
                         const StepPhase& phase) override;
  void AddPartialSums(const PartialSums& sums, const WeightVector& bias, const Norm& post_norm,
                      Tensor& x) override;
  void SelectRows(const Tensor& x, std::span<const int32_t> rows, Tensor& out) override;
  absl::Status Sample(Tensor& logits, Range vocab_rows, std::span<const SampleRow> rows,
                      Collective& collective, const StepPhase& phase,
                      std::span<SampledToken> out) override;
  absl::Status Score(Tensor& logits, Range vocab_rows, std::span<const ScoreRow> rows,
                     Collective& collective, const StepPhase& phase,
                     std::span<TokenScore> out) override;
  std::span<const uint8_t> TokenFailures() override { return token_failed_; }
  void ReadRows(const Tensor& x, Range rows, float* out, int64_t stride) override;

 private:
  /// Where one token of the step stands.
  struct TokenPlace {
    int64_t position = 0;
    const SequenceSlice* sequence = nullptr;
  };

  /// Neighbouring tokens of one sequence.
  struct TokenRun {
    int64_t first = 0;
    int64_t count = 0;
  };

  void Quantize(const Tensor& x, bool quantize);
  /// Makes angles readable of positions [start, end) within their segments.
  void PrepareSegments(int64_t start, int64_t end);
  /// In place: [heads * head_dim] of one token.
  void RotateHeads(const RopeTable& table, int64_t position, std::span<float> heads) const;
  const RopeTable& rope(const AttentionLayer& layer) const {
    return layer.local_rope ? local_rope_ : rope_;
  }
  float SlopeOf(int64_t head) const {
    return slopes_.empty() ? 0.0F : slopes_[static_cast<size_t>(shard_.query_heads.begin + head)];
  }
  /// Attention within the keys that a layer's cache has. segment_keys: HeadPages'
  void AttendKeys(const AttentionLayer& layer, const Tensor& query, const KvView& cache,
                  const SegmentKeys* segment_keys, Tensor& out);
  /// The rank's query heads that its KV head serves (both counted within the rank).
  Range QueryHeadsOf(int kv_head) const;

  const ModelConfig& config_;
  const Shard shard_;
  const CpuOptions options_;
  std::string device_name_;
  HostMemory memory_;
  ThreadPool pool_;
  Arena arena_;
  RopeTable rope_;
  RopeTable local_rope_;
  Activations activations_;
  Activations gated_codes_;
  Tensor gated_;  // [tokens, columns of `down`], where `down` multiplies floats or nothing gates
  Tensor embedded_position_;  // [tokens, dim]
  AttentionByChunks by_chunks_;
  std::optional<SparseAttention> sparse_;  // only where the model's attention is
  std::optional<InfiniAttention> infini_;  // likewise
  Tensor rotated_;                         // [tokens, heads * head_dim] queries of a segment
  Tensor total_;                           // [tokens, dim] a reduced sum on its way to the residual
  std::vector<float> slopes_;              // [heads of the model] of ALiBi, or empty
  std::vector<TokenPlace> places_;         // [tokens of the step]
  std::vector<TokenRun> runs_;             // all of them, in order
  std::vector<uint8_t> token_failed_;      // [tokens of the step]
  PhaseClock* phases_ = nullptr;           // of the step
};

}  // namespace tandem::core
