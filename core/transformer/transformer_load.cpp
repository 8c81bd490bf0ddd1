#include <cmath>

#include "core/formats/expected_tensors.h"
#include "core/model/device_status.h"
#include "core/transformer/norm_load.h"
#include "core/transformer/transformer.h"

namespace tandem::core {
namespace {

/// Rows (or columns) of the heads in a range of heads.
Range OfHeads(Range heads, int head_dim) {
  return {heads.begin * head_dim, heads.count * head_dim};
}

std::string NameIn(int layer, std::string_view part) {
  return fmt::format("blk.{}.{}", layer, part);
}

/// Rows of a matrix, as a matrix.
MatrixSource RowsOf(MatrixSource source, Range rows) {
  source.data += rows.begin * RowBytes(source.dtype, source.columns);
  source.rows = rows.count;
  return source;
}

}  // namespace

Transformer::Scratch::Scratch(DeviceMemory& memory, const ModelConfig& config, const Shard& shard)
    : x(memory, config.dim),
      normed(memory, config.dim),
      fed(memory, config.dim),
      query(memory, shard.query_heads.count * config.head_dim),
      key(memory, shard.kv_heads.count * config.head_dim),
      value(memory, shard.kv_heads.count * config.head_dim),
      attended(memory, shard.query_heads.count * config.head_dim),
      sums(memory, config.dim),
      chosen(memory, config.dim),
      logits(memory, shard.vocab_rows.count) {}

Transformer::Transformer(const ModelFile& file, const Shard& shard, Operations& operations)
    : file_(file),
      config_(file.config()),
      shard_(shard),
      ops_(operations),
      scratch_(operations.memory(), config_, shard) {}

absl::StatusOr<std::unique_ptr<Transformer>> Transformer::Load(const ModelFile& file,
                                                               const Shard& shard,
                                                               Operations& operations,
                                                               const Progress& progress) {
  using Loaded = absl::StatusOr<std::unique_ptr<Transformer>>;
  return WithDeviceFailures([&]() -> Loaded {
    std::unique_ptr<Transformer> model(new Transformer(file, shard, operations));
    TANDEM_RETURN_IF_ERROR(model->LoadWeights(progress));
    return model;
  });
}

absl::Status Transformer::LoadWeights(const Progress& progress) {
  const auto tell = [&](int parts, std::string_view what) {
    return progress ? progress(static_cast<double>(parts) / (config_.layers + 1), what)
                    : absl::OkStatus();
  };
  TANDEM_ASSIGN_OR_RETURN(embedding_.tokens,
                          file_.Matrix("token_embd.weight", config_.vocab, config_.dim));
  if (config_.Has("position_embd.weight")) {
    TANDEM_ASSIGN_OR_RETURN(embedding_.positions,
                            file_.Matrix("position_embd.weight", config_.context, config_.dim));
  }
  ops_.PrepareEmbedding(embedding_);
  if (config_.Has("token_embd_norm.weight")) {
    const NormSpec spec{NormKind::kLayer, config_.embedding_norm_epsilon, config_.dim};
    TANDEM_ASSIGN_OR_RETURN(embedding_norm_,
                            LoadNorm(file_, "token_embd_norm", spec, ops_.memory()));
  }
  layers_.reserve(static_cast<size_t>(config_.layers));
  for (int index = 0; index < config_.layers; ++index) {
    TANDEM_RETURN_IF_ERROR(tell(index, "loading layers"));
    TANDEM_ASSIGN_OR_RETURN(Layer layer, LoadLayer(index));
    layers_.push_back(std::move(layer));
  }
  TANDEM_RETURN_IF_ERROR(tell(config_.layers, "loading head"));
  TANDEM_RETURN_IF_ERROR(LoadHead());
  return tell(config_.layers + 1, "loaded");
}

absl::Status Transformer::LoadModelNorm(std::string_view name, Norm& norm) const {
  const NormSpec spec{config_.norm, config_.norm_epsilon, config_.dim};
  TANDEM_ASSIGN_OR_RETURN(norm, LoadNorm(file_, name, spec, ops_.memory()));
  return absl::OkStatus();
}

absl::Status Transformer::LoadMatrix(const MatrixSource& source, Range rows, Range columns,
                                     std::unique_ptr<Weight>& weight) {
  TANDEM_ASSIGN_OR_RETURN(weight, ops_.Pack(source, rows, columns));
  weight_bytes_ += weight->bytes();
  return absl::OkStatus();
}

absl::Status Transformer::LoadBias(std::string_view name, int64_t n, Range elements,
                                   WeightVector& bias) const {
  if (!file_.Has(name)) return absl::OkStatus();
  TANDEM_ASSIGN_OR_RETURN(const std::vector<float> whole, file_.Vector(name, n));
  if (elements.count == 0) return absl::OkStatus();
  bias = WeightVector(ops_.memory(), std::span(whole).subspan(static_cast<size_t>(elements.begin),
                                                              static_cast<size_t>(elements.count)));
  return absl::OkStatus();
}

absl::Status Transformer::LoadHead() {
  TANDEM_RETURN_IF_ERROR(LoadModelNorm("output_norm", output_norm_));
  MatrixSource head = embedding_.tokens;
  if (!config_.tied_head) {
    TANDEM_ASSIGN_OR_RETURN(head, file_.Matrix("output.weight", config_.vocab, config_.dim));
  }
  TANDEM_RETURN_IF_ERROR(LoadMatrix(head, shard_.vocab_rows, {0, config_.dim}, head_));
  return LoadBias("output.bias", config_.vocab, shard_.vocab_rows, head_bias_);
}

absl::StatusOr<Transformer::Layer> Transformer::LoadLayer(int index) {
  Layer layer;
  const int window = config_.layer_window[static_cast<size_t>(index)];
  layer.attention = {.layer = index, .window = window, .local_rope = window != 0};
  const auto norm = [&](std::string_view part, Norm& to) {
    return LoadModelNorm(NameIn(index, part), to);
  };
  const bool second = config_.HasNorm("attn_norm_2");
  TANDEM_RETURN_IF_ERROR(norm(second ? "attn_norm_2" : "attn_norm", layer.attention_norm));
  if (config_.HasFeedForwardNorm() || second) {
    TANDEM_RETURN_IF_ERROR(
        norm(config_.HasFeedForwardNorm() ? "ffn_norm" : "attn_norm", layer.feed_forward_norm));
  } else {
    layer.feed_forward_norm = layer.attention_norm;
  }
  if (config_.post_norms) {
    TANDEM_RETURN_IF_ERROR(norm("post_attention_norm", layer.post_attention_norm));
    TANDEM_RETURN_IF_ERROR(norm("post_ffw_norm", layer.post_feed_forward_norm));
  }
  if (config_.attention.infini() && window == 0) {
    TANDEM_ASSIGN_OR_RETURN(layer.attention.memory_gates, LoadMemoryGates(index));
  }
  TANDEM_RETURN_IF_ERROR(LoadAttention(index, layer));
  TANDEM_RETURN_IF_ERROR(LoadFeedForward(index, layer));
  return layer;
}

absl::StatusOr<std::vector<float>> Transformer::LoadMemoryGates(int index) const {
  const auto heads = static_cast<size_t>(config_.heads);
  std::vector<float> gates(heads, config_.attention.gate.value_or(0.0F));
  const std::string name = NameIn(index, kMemoryGate);
  if (!config_.attention.gate && file_.Has(name)) {
    TANDEM_ASSIGN_OR_RETURN(gates, file_.Vector(name, config_.heads));
  }
  for (size_t head = 0; head < heads; ++head) {
    if (!std::isnan(gates[head])) continue;
    return InvalidArgument("{}: tensor '{}' has nan at index {}, expected a number", file_.path(),
                           name, head);
  }
  for (float& gate : gates) gate = static_cast<float>(1.0 / (1.0 + std::exp(-double{gate})));
  return std::vector<float>(gates.begin() + shard_.query_heads.begin,
                            gates.begin() + shard_.query_heads.end());
}

absl::Status Transformer::LoadAttention(int index, Layer& layer) {
  const ModelConfig& c = config_;
  const Range query_rows = OfHeads(shard_.query_heads, c.head_dim);
  const Range kv_rows = OfHeads(shard_.kv_heads, c.head_dim);
  const int64_t query_size = int64_t{c.heads} * c.head_dim;
  const int64_t kv_size = int64_t{c.kv_heads} * c.head_dim;
  struct Part {
    std::string_view name;
    Range of_fused;  // its rows, where one matrix has queries, keys and values
    Range of_shard;
    std::unique_ptr<Weight>& weight;
    WeightVector& bias;
  };
  const Part parts[] = {
      {"attn_q", {0, query_size}, query_rows, layer.query, layer.query_bias},
      {"attn_k", {query_size, kv_size}, kv_rows, layer.key, layer.key_bias},
      {"attn_v", {query_size + kv_size, kv_size}, kv_rows, layer.value, layer.value_bias}};
  const int64_t fused_size = query_size + 2 * kv_size;
  const bool fused = c.Has("attn_qkv.weight");
  for (const Part& part : parts) {
    const std::string name = NameIn(index, fused ? "attn_qkv" : part.name);
    const int64_t rows = fused ? fused_size : part.of_fused.count;
    const int64_t first = fused ? part.of_fused.begin : 0;
    TANDEM_ASSIGN_OR_RETURN(const MatrixSource source, file_.Matrix(name + ".weight", rows, c.dim));
    TANDEM_RETURN_IF_ERROR(LoadMatrix(RowsOf(source, {first, part.of_fused.count}), part.of_shard,
                                      {0, c.dim}, part.weight));
    TANDEM_RETURN_IF_ERROR(LoadBias(name + ".bias", rows,
                                    {first + part.of_shard.begin, part.of_shard.count}, part.bias));
  }
  if (c.query_key_norm) {
    const NormSpec spec{NormKind::kRms, c.head_norm_epsilon, c.head_dim};
    TANDEM_ASSIGN_OR_RETURN(layer.query_norm,
                            LoadNorm(file_, NameIn(index, "attn_q_norm"), spec, ops_.memory()));
    TANDEM_ASSIGN_OR_RETURN(layer.key_norm,
                            LoadNorm(file_, NameIn(index, "attn_k_norm"), spec, ops_.memory()));
  }
  TANDEM_ASSIGN_OR_RETURN(const MatrixSource output,
                          file_.Matrix(NameIn(index, "attn_output.weight"), c.dim, query_size));
  TANDEM_RETURN_IF_ERROR(LoadMatrix(output, {0, c.dim}, query_rows, layer.attention_output));
  return LoadBias(NameIn(index, "attn_output.bias"), c.dim, {0, c.dim},
                  layer.attention_output_bias);
}

absl::Status Transformer::LoadFeedForward(int index, Layer& layer) {
  const ModelConfig& c = config_;
  const Range columns = shard_.ffn_columns;
  const auto rows_of = [&](std::string_view part, std::unique_ptr<Weight>& weight) -> absl::Status {
    TANDEM_ASSIGN_OR_RETURN(const MatrixSource source,
                            file_.Matrix(NameIn(index, part), c.ffn_dim, c.dim));
    return LoadMatrix(source, columns, {0, c.dim}, weight);
  };
  if (c.gated) TANDEM_RETURN_IF_ERROR(rows_of("ffn_gate.weight", layer.gate));
  TANDEM_RETURN_IF_ERROR(rows_of("ffn_up.weight", layer.up));
  TANDEM_ASSIGN_OR_RETURN(const MatrixSource down,
                          file_.Matrix(NameIn(index, "ffn_down.weight"), c.dim, c.ffn_dim));
  TANDEM_RETURN_IF_ERROR(LoadMatrix(down, {0, c.dim}, columns, layer.down));
  TANDEM_RETURN_IF_ERROR(LoadBias(NameIn(index, "ffn_up.bias"), c.ffn_dim, columns, layer.up_bias));
  return LoadBias(NameIn(index, "ffn_down.bias"), c.dim, {0, c.dim}, layer.down_bias);
}

}  // namespace tandem::core
