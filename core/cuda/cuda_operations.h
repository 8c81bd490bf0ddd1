#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/thread_pool.h"
#include "core/cuda/cuda_dense_products.h"
#include "core/cuda/cuda_logits.h"
#include "core/cuda/cuda_memory.h"
#include "core/cuda/cuda_options.h"
#include "core/cuda/cuda_step.h"
#include "core/cuda/cuda_weight.h"
#include "core/model/operations.h"

namespace tandem::core {

/// The operations on a GPU. In exact mode they have the bits of CpuOperations (numerics.md, rule
/// 6). In fast mode some products round otherwise (CudaDenseProducts).
///
/// On the host, for now: rows of the embedding table are expanded there, where the file is mapped,
/// and sent as floats; and partial sums of several ranks cross pinned memory on their way through
/// the collective.
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
  void Embed(const MatrixSource& table, std::span<const int32_t> tokens, float scale,
             Tensor& out) override;
  void RmsNorm(const Tensor& x, const WeightVector& weight, float epsilon, Tensor& out) override;
  void NormHeads(Tensor& x, const WeightVector& weight, float epsilon) override;
  void Linear(const Tensor& x, std::initializer_list<Projection> projections) override;
  void RotateAndStore(const AttentionLayer& layer, Tensor& query, Tensor& key, const Tensor& value,
                      const KvView& cache) override;
  void Attend(const AttentionLayer& layer, const Tensor& query, const KvView& cache,
              Tensor& out) override;
  void LinearPartialSums(const Weight& weight, const Tensor& x, int64_t partial_columns,
                         PartialSums& out) override;
  void GatedLinearPartialSums(const Tensor& x, const GatedFeedForward& block,
                              PartialSums& out) override;
  absl::Status AllReduce(PartialSums& sums, Collective& collective,
                         const StepPhase& phase) override;
  void AddPartialSums(const PartialSums& sums, const WeightVector& bias,
                      const WeightVector& post_norm, float epsilon, Tensor& x) override;
  void SelectRows(const Tensor& x, std::span<const int32_t> rows, Tensor& out) override;
  absl::Status Sample(Tensor& logits, Range vocab_rows, std::span<const SampleRow> rows,
                      Collective& collective, const StepPhase& phase,
                      std::span<SampledToken> out) override;
  absl::Status Score(Tensor& logits, Range vocab_rows, std::span<const ScoreRow> rows,
                     Collective& collective, const StepPhase& phase,
                     std::span<TokenScore> out) override;
  std::span<const uint8_t> TokenFailures() override;
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

  /// Whether a product with this weight is made by fast mode.
  bool Fast(const CudaWeight& weight, int64_t tokens) const {
    return dense_ != nullptr && CudaDenseProducts::Wants(weight.matrix().dtype, tokens);
  }
  /// One product, where `input` has codes unless fast mode makes it.
  void Multiply(const CudaWeight& weight, const Tensor& x, const ProductInput& input, float* out);
  /// x for products, as codes too where they are wanted.
  ProductInput InputOf(const Tensor& x, bool quantize);
  /// Sets first_chunk and chunks from the tokens.
  void SetChunks(AttentionStep& step) const;

  const ModelConfig& config_;
  const Shard shard_;
  const CudaOptions options_;
  const std::string device_name_;
  CudaMemory memory_;
  ThreadPool pool_;
  CudaStep step_;
  Upload embedded_;
  Rows<std::byte> embedded_rows_;  // of the file
  Upload selected_;
  Rows<int32_t> selected_rows_;
  Codes codes_;
  std::unique_ptr<CudaDenseProducts> dense_;  // of fast mode
  Tensor gate_;                               // [tokens, ffn_columns]
  Tensor up_;                                 // [tokens, ffn_columns]
  std::vector<HeadRun> runs_;                 // of the rank's query heads
  std::shared_ptr<std::byte> device_runs_;
  Rows<float> chunk_results_;
  PinnedBytes reduced_;  // partial sums on their way through the collective
  size_t reduced_bytes_ = 0;
  Rows<uint8_t> token_failed_;        // [tokens]
  std::vector<uint8_t> host_failed_;  // [tokens]
  CudaLogits logits_;                 // of Sample
  PhaseClock* phases_ = nullptr;      // of the step
};

}  // namespace tandem::core
