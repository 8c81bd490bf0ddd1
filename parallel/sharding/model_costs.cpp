#include "parallel/sharding/model_costs.h"

#include <string>

#include "core/formats/expected_tensors.h"

namespace tandem::parallel {

absl::StatusOr<ModelCosts> CostsOf(const core::ModelFile& file) {
  const core::ModelConfig& config = file.config();
  ModelCosts costs;
  // Where the head is tied, the embedding's rows are what the vocabulary phase reads.
  const std::string head = config.tied_head ? "token_embd.weight" : "output.weight";
  for (const core::TensorShape& shape : core::ExpectedTensors(config)) {
    const core::GgufTensor* tensor = file.gguf().FindTensor(shape.name);
    if (tensor == nullptr) {
      return NotFound("{}: tensor '{}' is missing", file.path(), shape.name);
    }
    const auto bytes = static_cast<double>(tensor->data.size());
    const auto is = [&](std::string_view part) {
      return shape.name.find(part) != std::string::npos;
    };
    if (shape.name == head) {
      costs.vocab_row += bytes / config.vocab;
    } else if (shape.name == "token_embd.weight" || shape.name == "position_embd.weight") {
      continue;  // single rows, read from the mapped file
    } else if (shape.rows == 0) {
      costs.every_rank += bytes;
    } else if (is(".attn_qkv.")) {
      const double row = bytes / (config.heads + 2.0 * config.kv_heads);
      costs.query_head += row;
      costs.kv_head += 2.0 * row;
    } else if (is(".attn_q.") || is(".attn_output.")) {
      costs.query_head += bytes / config.heads;
    } else if (is(".attn_k.") || is(".attn_v.")) {
      costs.kv_head += bytes / config.kv_heads;
    } else {
      costs.ffn_column += bytes / config.ffn_dim;
    }
  }
  return costs;
}

}  // namespace tandem::parallel
