#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/base/thread_pool.h"
#include "core/cuda/copies/cuda_kept_results.h"
#include "core/cuda/cuda_dense_products.h"
#include "core/cuda/cuda_logits.h"
#include "core/cuda/cuda_memory.h"
#include "core/cuda/cuda_options.h"
#include "core/cuda/cuda_reductions.h"
#include "core/cuda/cuda_sparse_step.h"
#include "core/cuda/cuda_step.h"
#include "core/cuda/cuda_weight.h"
#include "core/cuda/graphs/cuda_step_graphs.h"
#include "core/model/operations.h"

namespace tandem::core {

/// The operations on a GPU. In exact mode they have the bits of CpuOperations (numerics.md, rule
/// 6). In fast mode some products round otherwise (CudaDenseProducts).
///
/// Rows of the embedding table are sent as the bytes of the file, which is mapped on the host.
/// Partial sums of several ranks stay on the GPUs where the collective has a link between them, and
/// cross pinned memory otherwise.
class CudaOperations : public Operations {
 public:
  /// `config` must outlive the operations. Throws DeviceFailure.
  CudaOperations(const ModelConfig& config, const Shard& shard, const CudaOptions& options);

  std::string_view device_name() const override { return device_name_; }
  DeviceMemory& memory() override { return memory_; }
  /// On threads of the host.
  void ParallelFor(int64_t tasks, absl::FunctionRef<void(int64_t task)> body) override {
    pool_.ParallelFor(tasks, [&](int64_t task, int) { body(task); });
  }
  absl::StatusOr<std::unique_ptr<Weight>> Pack(const MatrixSource& source, Range rows,
                                               Range columns) override;
  void BeginStep(const Batch& batch) override;
  void BeginPass(const Collective& collective) override;
  void EndPass() override;
  void AbandonPass() noexcept override;
  void PrepareEmbedding(const EmbeddingTables& tables) override;
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
  std::span<const uint8_t> TokenFailures() override;
  bool passes_ahead() const override { return true; }
  bool CanKeep(std::span<const SampleRow> rows, const Collective& collective) const override;
  absl::Status Keep(Tensor& logits, Range vocab_rows, std::span<const SampleRow> rows,
                    Collective& collective, const StepPhase& phase) override;
  absl::Status AwaitKept(absl::FunctionRef<bool()> until) override;
  KeptResults TakeKept() override;
  void ReadRows(const Tensor& x, Range rows, float* out, int64_t stride) override;

 private:
  /// Room for the codes of a product's input.
  struct Codes {
    explicit Codes(DeviceMemory& memory) : codes(memory, 1), scales(memory, 1), sums(memory, 1) {}
    CodeRows For(int64_t rows, int64_t columns);
    Rows<int8_t> codes;
    Rows<float> scales;
    Rows<int32_t> sums;
  };

  /// Rows of a table of the file on their way to the device.
  struct EmbeddingUpload {
    explicit EmbeddingUpload(CudaMemory& memory) : upload(memory), on_device(memory, 1) {}
    Upload upload;
    Rows<std::byte> on_device;
  };
  void SendRows(const MatrixSource& table, std::span<const int32_t> rows, EmbeddingUpload& to);
  /// Puts the rows of KeptTokens where SendRows has sent others.
  void TakeKeptRows(const MatrixSource& table, std::span<const int32_t> tokens,
                    EmbeddingUpload& to);

  /// Whether a product with this weight is made by fast mode.
  bool Fast(const CudaWeight& weight, int64_t tokens) const {
    return dense_ != nullptr && CudaDenseProducts::Wants(weight.matrix().dtype, tokens);
  }
  /// x for products, as codes too where they are wanted.
  ProductInput InputOf(const Tensor& x, bool quantize);
  /// Whether the graph of the step has what would be put into the stream now.
  bool replays() const { return mode_ == CudaStepGraphs::Mode::kReplay; }
  /// The chunks of attention that some tokens of the step see.
  struct Chunks {
    int64_t first = 0;
    int64_t count = 0;
  };
  Chunks ChunksOf(int64_t first_token, int64_t tokens, int window) const;
  /// Whether a step needs more memory than those before, so that some is freed, which waits for the
  /// GPU.
  bool Grows(const Batch& batch);
  /// The shape of the step, if steps of it may be graphs.
  std::optional<StepShape> ShapeOfStep() const;
  /// Puts a reduction over the link into the stream: of integers, or of floats in fast mode.
  absl::Status Reduce(PartialSums& sums, DeviceLink& link);
  /// Of the results of attention, for a token.
  int64_t ChunkFloats(int64_t chunks) const;
  /// Attend of a model with sparse attention.
  void AttendSparse(const AttentionLayer& layer, const KvView& cache, AttentionStep step);

  const ModelConfig& config_;
  const Shard shard_;
  const CudaOptions options_;
  const std::string device_name_;
  CudaMemory memory_;
  ThreadPool pool_;
  CudaStep step_;
  std::unique_ptr<CudaSparseStep> sparse_step_;  // null: attention is dense
  EmbeddingUpload embedded_;
  EmbeddingUpload embedded_positions_;
  Tensor position_rows_;  // [tokens, dim]
  /// The table of token embeddings as the file has it, for rows of tokens that the host does not
  /// know yet; null: the host has no room for it, and nothing is sampled ahead.
  PinnedBytes table_;
  Rows<int32_t> sampled_;         // [rows] of the step that was kept last
  SentRows<int32_t> kept_rows_;   // [tokens] the row of a KeptToken, or -1
  bool has_kept_tokens_ = false;  // of the step
  /// The most that steps had: tokens, rows with logits, entries of block tables, and tokens times
  /// positions, rounded up.
  std::array<uint64_t, 4> most_ = {};
  Upload selected_;
  Rows<int32_t> selected_rows_;
  Codes codes_;
  std::unique_ptr<CudaDenseProducts> dense_;  // of fast mode
  Tensor gate_;                               // [tokens, ffn_columns]
  Tensor up_;                                 // [tokens, ffn_columns]
  WeightVector slopes_;                       // [query heads of the rank] of ALiBi, or empty
  std::vector<HeadRun> runs_;                 // of the rank's query heads
  int largest_run_ = 0;                       // heads
  std::shared_ptr<std::byte> device_runs_;
  Rows<float> chunk_results_;
  CudaReductions reductions_;
  PinnedBytes reduced_;  // partial sums on their way through the host
  size_t reduced_bytes_ = 0;
  Rows<float> float_sums_;            // of fast mode, where the link has no memory for them
  float* reduced_floats_ = nullptr;   // those that were reduced last, as SumsToFloats gives them
  Rows<uint8_t> token_failed_;        // [tokens]
  std::vector<uint8_t> host_failed_;  // [tokens]
  CudaKeptResults kept_;              // of steps that others have begun behind
  CudaLogits logits_;                 // of Sample
  CudaStepGraphs graphs_;
  CudaStepGraphs::Mode mode_ = CudaStepGraphs::Mode::kEager;  // of the pass
  std::vector<int> windows_;                                  // of layers, each once
  int64_t logit_rows_ = 0;                                    // of the step
  PhaseClock* phases_ = nullptr;                              // of the step
};

}  // namespace tandem::core
