#include "core/formats/expected_tensors.h"

#include <array>
#include <unordered_set>
#include <utility>

namespace tandem::core {
namespace {

absl::Status CheckTensor(const GgufFile& file, const TensorShape& shape) {
  const GgufTensor* tensor = file.FindTensor(shape.name);
  const bool vector = shape.rows == 0;
  const std::string expected = vector ? fmt::format("[{}]", shape.columns)
                                      : fmt::format("[{}, {}]", shape.rows, shape.columns);
  if (tensor == nullptr) {
    const bool statistic = shape.name.find(".running_") != std::string::npos;
    return NotFound("{}: tensor '{}' {} is missing{}", file.path(), shape.name, expected,
                    statistic ? ": a batch norm needs its statistics" : "");
  }
  if (tensor->dims !=
      std::array<int64_t, kGgufMaxDims>{shape.columns, vector ? 1 : shape.rows, 1, 1}) {
    return InvalidArgument("{}: tensor '{}': expected shape {}, found {}", file.path(), shape.name,
                           expected, tensor->ShapeText());
  }
  if (vector && BlockElements(tensor->dtype) != 1) {
    return InvalidArgument("{}: tensor '{}': expected F32, F16 or BF16, found {}", file.path(),
                           shape.name, DTypeName(tensor->dtype));
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<TensorShape> ExpectedTensors(const ModelConfig& config) {
  const int64_t dim = config.dim;
  const int64_t query = int64_t{config.heads} * config.head_dim;
  const int64_t key = int64_t{config.kv_heads} * config.head_dim;
  const FamilyTraits& traits = TraitsOf(config.family);
  std::vector<TensorShape> shapes;
  std::string prefix;
  const auto vector = [&](std::string_view name, int64_t n) {
    shapes.push_back({fmt::format("{}{}", prefix, name), 0, n});
  };
  const auto matrix = [&](std::string_view name, int64_t rows, int64_t columns) {
    shapes.push_back({fmt::format("{}{}", prefix, name), rows, columns});
  };
  const auto bias = [&](const std::string& name, int64_t n) {
    if (config.Has(name)) vector(name, n);
  };
  const auto norm = [&](const std::string& name) {
    if (config.norm_weights || config.Has(name + ".weight")) vector(name + ".weight", dim);
    bias(name + ".bias", dim);
    if (config.norm != NormKind::kBatch) return;
    vector(name + ".running_mean", dim);
    vector(name + ".running_var", dim);
  };
  matrix("token_embd.weight", config.vocab, dim);
  // Models of other families have none of these.
  if (traits.Knows("position_embd.weight") && config.Has("position_embd.weight")) {
    matrix("position_embd.weight", config.context, dim);
  }
  if (traits.Knows("token_embd_norm.weight")) {
    vector("token_embd_norm.weight", dim);
    vector("token_embd_norm.bias", dim);
  }
  for (int layer = 0; layer < config.layers; ++layer) {
    prefix = fmt::format("blk.{}.", layer);
    norm("attn_norm");
    if (traits.Knows("attn_norm_2") && config.HasNorm("attn_norm_2")) norm("attn_norm_2");
    if (config.Has("attn_qkv.weight")) {
      matrix("attn_qkv.weight", query + 2 * key, dim);
      bias("attn_qkv.bias", query + 2 * key);
    } else {
      matrix("attn_q.weight", query, dim);
      matrix("attn_k.weight", key, dim);
      matrix("attn_v.weight", key, dim);
      bias("attn_q.bias", query);
      bias("attn_k.bias", key);
      bias("attn_v.bias", key);
    }
    if (config.query_key_norm) {
      vector("attn_q_norm.weight", config.head_dim);
      vector("attn_k_norm.weight", config.head_dim);
    }
    matrix("attn_output.weight", dim, query);
    bias("attn_output.bias", dim);
    if (config.post_norms) norm("post_attention_norm");
    if (config.HasFeedForwardNorm()) norm("ffn_norm");
    if (config.gated) matrix("ffn_gate.weight", config.ffn_dim, dim);
    matrix("ffn_up.weight", config.ffn_dim, dim);
    if (!config.gated) bias("ffn_up.bias", config.ffn_dim);
    matrix("ffn_down.weight", dim, config.ffn_dim);
    bias("ffn_down.bias", dim);
    if (config.post_norms) norm("post_ffw_norm");
  }
  prefix.clear();
  norm("output_norm");
  if (!config.tied_head) matrix("output.weight", config.vocab, dim);
  bias("output.bias", config.vocab);
  return shapes;
}

absl::Status CheckTensors(const GgufFile& file, const ModelConfig& config) {
  // Its factors are folded into the config.
  std::unordered_set<std::string> known = {"rope_freqs.weight"};
  for (TensorShape& shape : ExpectedTensors(config)) {
    TANDEM_RETURN_IF_ERROR(CheckTensor(file, shape));
    known.insert(std::move(shape.name));
  }
  for (int layer = 0; layer < config.layers; ++layer) {
    if (config.layer_window[static_cast<size_t>(layer)] != 0) continue;
    TensorShape gate{fmt::format("blk.{}.{}", layer, kMemoryGate), 0, config.heads};
    if (file.FindTensor(gate.name) == nullptr) continue;
    TANDEM_RETURN_IF_ERROR(CheckTensor(file, gate));
    known.insert(std::move(gate.name));
  }
  for (const GgufTensor& tensor : file.tensors()) {
    if (!known.contains(std::string(tensor.name))) {
      return Unimplemented(
          "{}: tensor '{}' {} is not part of the {} models that are supported; computing without "
          "it would give wrong answers",
          file.path(), PrintableText(tensor.name), tensor.ShapeText(), FamilyName(config.family));
    }
  }
  return absl::OkStatus();
}

}  // namespace tandem::core
