#pragma once

#include <memory>
#include <vector>

#include "core/base/progress.h"
#include "core/formats/model_file.h"
#include "core/model/model.h"
#include "core/model/operations.h"

namespace tandem::core {

/// A decoder-only transformer of any of our families: one rank's shard of it, on one device.
///
/// What differs between families is data: ModelConfig, and which tensors there are. Source: Vaswani
/// et al. 2017; Llama (Touvron et al. 2023), Qwen2, Qwen3 and Gemma 3 technical reports; the
/// parallel residual is that of GPT-J (Wang & Komatsuzaki 2021). The order of all sums is that of
/// numerics.md. Thread safety: one thread calls.
class Transformer final : public Model {
 public:
  /// Reads and packs the shard. `file` and `operations` must outlive the model. Errors name file,
  /// tensor, expected and found.
  static absl::StatusOr<std::unique_ptr<Transformer>> Load(const ModelFile& file,
                                                           const Shard& shard,
                                                           Operations& operations,
                                                           const Progress& progress);

  const ModelConfig& config() const override { return config_; }
  const Shard& shard() const override { return shard_; }
  int64_t weight_bytes() const override { return weight_bytes_; }

  DeviceMemory& memory() override { return ops_.memory(); }

  absl::Status Forward(const Batch& batch, const KvView& cache, Collective& collective) override;
  absl::Status Sample(std::span<const SampleRow> rows, Collective& collective,
                      const StepPhase& phase, std::span<SampledToken> out) override;
  absl::Status Score(std::span<const ScoreRow> rows, Collective& collective, const StepPhase& phase,
                     std::span<TokenScore> out) override;
  absl::Status ReadLogits(Range rows, float* out, int64_t stride) override;
  absl::StatusOr<std::span<const uint8_t>> TokenFailures() override;
  bool passes_ahead() const override { return ops_.passes_ahead(); }
  bool CanKeep(std::span<const SampleRow> rows, const Collective& collective) const override {
    return ops_.CanKeep(rows, collective);
  }
  absl::Status Keep(std::span<const SampleRow> rows, Collective& collective,
                    const StepPhase& phase) override;
  absl::Status AwaitKept(absl::FunctionRef<bool()> until) override;
  absl::StatusOr<KeptResults> TakeKept() override;
  void ParallelFor(int64_t tasks, absl::FunctionRef<void(int64_t task)> body) override {
    ops_.ParallelFor(tasks, body);
  }

 private:
  struct Layer {
    AttentionLayer attention;
    Norm attention_norm;            // [dim]
    std::unique_ptr<Weight> query;  // [heads * head_dim, dim]
    std::unique_ptr<Weight> key;    // [kv_heads * head_dim, dim]
    std::unique_ptr<Weight> value;  // [kv_heads * head_dim, dim]
    WeightVector query_bias, key_bias, value_bias;
    Norm query_norm, key_norm;                 // [head_dim]
    std::unique_ptr<Weight> attention_output;  // [dim, heads * head_dim]
    WeightVector attention_output_bias;        // [dim]
    Norm post_attention_norm;                  // [dim]
    Norm feed_forward_norm;                    // [dim]
    std::unique_ptr<Weight> gate;              // [ffn_columns, dim]; null where nothing is gated
    std::unique_ptr<Weight> up;                // [ffn_columns, dim]
    WeightVector up_bias;                      // [ffn_columns]
    std::unique_ptr<Weight> down;              // [dim, ffn_columns]
    WeightVector down_bias;                    // [dim]
    Norm post_feed_forward_norm;               // [dim]
  };

  /// Rows of a step; all are [tokens, ...].
  struct Scratch {
    explicit Scratch(DeviceMemory& memory, const ModelConfig& config, const Shard& shard);
    Tensor x;          // [dim] the residual stream
    Tensor normed;     // [dim] what attention reads
    Tensor fed;        // [dim] what the feed-forward block reads
    Tensor query;      // [heads * head_dim] of this rank, likewise below
    Tensor key;        // [kv_heads * head_dim]
    Tensor value;      // [kv_heads * head_dim]
    Tensor attended;   // [heads * head_dim]
    PartialSums sums;  // [dim]
    Tensor chosen;     // [dim] rows whose logits are wanted
    Tensor logits;     // [vocab_rows]
  };

  Transformer(const ModelFile& file, const Shard& shard, Operations& operations);
  absl::Status LoadWeights(const Progress& progress);
  absl::StatusOr<Layer> LoadLayer(int index);
  /// Sigmoids of the gates of the rank's query heads.
  absl::StatusOr<std::vector<float>> LoadMemoryGates(int index) const;
  absl::Status LoadAttention(int index, Layer& layer);
  absl::Status LoadFeedForward(int index, Layer& layer);
  absl::Status LoadHead();
  /// A norm of the layers or behind them.
  absl::Status LoadModelNorm(std::string_view name, Norm& norm) const;
  /// Rows and columns of a matrix [rows, columns of the model], packed.
  absl::Status LoadMatrix(const MatrixSource& source, Range rows, Range columns,
                          std::unique_ptr<Weight>& weight);
  /// Elements of a vector, where the file has it.
  absl::Status LoadBias(std::string_view name, int64_t n, Range elements, WeightVector& bias) const;

  absl::Status Layers(const Batch& batch, const KvView& cache, Collective& collective);
  absl::Status Attention(const Batch& batch, const Layer& layer, const KvView& cache,
                         Collective& collective);
  absl::Status FeedForward(const Batch& batch, const Layer& layer, Collective& collective);

  const ModelFile& file_;
  const ModelConfig& config_;
  const Shard shard_;
  Operations& ops_;
  EmbeddingTables embedding_;  // rows read from the mapped file
  Norm embedding_norm_;        // [dim]
  std::vector<Layer> layers_;
  Norm output_norm_;              // [dim]
  std::unique_ptr<Weight> head_;  // [vocab_rows, dim]
  WeightVector head_bias_;        // [vocab_rows]
  int64_t weight_bytes_ = 0;
  Scratch scratch_;
};

}  // namespace tandem::core
