#include "core/model/device_status.h"
#include "core/transformer/transformer.h"

namespace tandem::core {
namespace {

/// Rows (or columns) of the heads in a range of heads.
Range OfHeads(Range heads, int head_dim) {
  return {heads.begin * head_dim, heads.count * head_dim};
}

}  // namespace

Transformer::Scratch::Scratch(DeviceMemory& memory, const ModelConfig& config, const Shard& shard)
    : x(memory, config.dim),
      normed(memory, config.dim),
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
  const Range all_columns{0, config_.dim};
  TANDEM_ASSIGN_OR_RETURN(embedding_,
                          file_.Matrix("token_embd.weight", config_.vocab, config_.dim));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<float> output_norm,
                          file_.Vector("output_norm.weight", config_.dim));
  output_norm_ = WeightVector(ops_.memory(), output_norm);
  layers_.reserve(static_cast<size_t>(config_.layers));
  for (int index = 0; index < config_.layers; ++index) {
    TANDEM_RETURN_IF_ERROR(tell(index, "loading layers"));
    TANDEM_ASSIGN_OR_RETURN(Layer layer, LoadLayer(index));
    layers_.push_back(std::move(layer));
  }
  TANDEM_RETURN_IF_ERROR(tell(config_.layers, "loading head"));
  MatrixSource head = embedding_;
  if (!config_.tied_head) {
    TANDEM_ASSIGN_OR_RETURN(head, file_.Matrix("output.weight", config_.vocab, config_.dim));
  }
  TANDEM_ASSIGN_OR_RETURN(head_, ops_.Pack(head, shard_.vocab_rows, all_columns));
  weight_bytes_ += head_->bytes();
  return tell(config_.layers + 1, "loaded");
}

absl::StatusOr<Transformer::Layer> Transformer::LoadLayer(int index) {
  const ModelConfig& c = config_;
  const Range query_rows = OfHeads(shard_.query_heads, c.head_dim);
  const Range kv_rows = OfHeads(shard_.kv_heads, c.head_dim);
  const Range all_columns{0, c.dim};
  const Range all_rows{0, c.dim};
  const int64_t query_size = int64_t{c.heads} * c.head_dim;
  const int64_t kv_size = int64_t{c.kv_heads} * c.head_dim;

  const auto name = [index](std::string_view part) {
    return fmt::format("blk.{}.{}", index, part);
  };
  // A bias is cut to the rows of the shard.
  const auto bias = [&](WeightVector& target, std::string_view part, int64_t n,
                        Range rows) -> absl::Status {
    TANDEM_ASSIGN_OR_RETURN(const std::vector<float> whole, file_.Vector(name(part), n));
    target = WeightVector(ops_.memory(), std::span(whole).subspan(static_cast<size_t>(rows.begin),
                                                                  static_cast<size_t>(rows.count)));
    return absl::OkStatus();
  };
  const auto vector = [&](WeightVector& target, std::string_view part, int64_t n) {
    return bias(target, part, n, {0, n});
  };
  const auto matrix = [&](std::unique_ptr<Weight>& target, std::string_view part, int64_t rows,
                          int64_t columns, Range row_range, Range column_range) -> absl::Status {
    TANDEM_ASSIGN_OR_RETURN(const MatrixSource source, file_.Matrix(name(part), rows, columns));
    TANDEM_ASSIGN_OR_RETURN(target, ops_.Pack(source, row_range, column_range));
    weight_bytes_ += target->bytes();
    return absl::OkStatus();
  };

  Layer layer;
  const int window = c.layer_window[static_cast<size_t>(index)];
  layer.attention = {.layer = index, .window = window, .local_rope = window != 0};
  TANDEM_RETURN_IF_ERROR(vector(layer.attention_norm, "attn_norm.weight", c.dim));
  TANDEM_RETURN_IF_ERROR(
      matrix(layer.query, "attn_q.weight", query_size, c.dim, query_rows, all_columns));
  TANDEM_RETURN_IF_ERROR(matrix(layer.key, "attn_k.weight", kv_size, c.dim, kv_rows, all_columns));
  TANDEM_RETURN_IF_ERROR(
      matrix(layer.value, "attn_v.weight", kv_size, c.dim, kv_rows, all_columns));
  if (c.qkv_bias) {
    TANDEM_RETURN_IF_ERROR(bias(layer.query_bias, "attn_q.bias", query_size, query_rows));
    TANDEM_RETURN_IF_ERROR(bias(layer.key_bias, "attn_k.bias", kv_size, kv_rows));
    TANDEM_RETURN_IF_ERROR(bias(layer.value_bias, "attn_v.bias", kv_size, kv_rows));
  }
  if (c.query_key_norm) {
    TANDEM_RETURN_IF_ERROR(vector(layer.query_norm, "attn_q_norm.weight", c.head_dim));
    TANDEM_RETURN_IF_ERROR(vector(layer.key_norm, "attn_k_norm.weight", c.head_dim));
  }
  TANDEM_RETURN_IF_ERROR(matrix(layer.attention_output, "attn_output.weight", c.dim, query_size,
                                all_rows, query_rows));
  if (c.attention_output_bias) {
    TANDEM_RETURN_IF_ERROR(vector(layer.attention_output_bias, "attn_output.bias", c.dim));
  }
  TANDEM_RETURN_IF_ERROR(vector(layer.feed_forward_norm, "ffn_norm.weight", c.dim));
  TANDEM_RETURN_IF_ERROR(
      matrix(layer.gate, "ffn_gate.weight", c.ffn_dim, c.dim, shard_.ffn_columns, all_columns));
  TANDEM_RETURN_IF_ERROR(
      matrix(layer.up, "ffn_up.weight", c.ffn_dim, c.dim, shard_.ffn_columns, all_columns));
  TANDEM_RETURN_IF_ERROR(
      matrix(layer.down, "ffn_down.weight", c.dim, c.ffn_dim, all_rows, shard_.ffn_columns));
  if (c.down_bias) TANDEM_RETURN_IF_ERROR(vector(layer.down_bias, "ffn_down.bias", c.dim));
  if (c.post_norms) {
    TANDEM_RETURN_IF_ERROR(vector(layer.post_attention_norm, "post_attention_norm.weight", c.dim));
    TANDEM_RETURN_IF_ERROR(vector(layer.post_feed_forward_norm, "post_ffw_norm.weight", c.dim));
  }
  return layer;
}

}  // namespace tandem::core
