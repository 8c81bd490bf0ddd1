#include "core/formats/shard_parts.h"

#include <string_view>

#include "core/formats/expected_tensors.h"

namespace tandem::core {
namespace {

ShardPart PartOf(const TensorShape& tensor, DType dtype, const ModelConfig& config,
                 const Shard& shard) {
  const auto is = [&](std::string_view part) {
    return tensor.name.find(part) != std::string::npos;
  };
  const Range all{0, tensor.columns};
  const int64_t head = config.head_dim;
  if (tensor.name == "output.weight") return {dtype, shard.vocab_rows.count, all};
  if (tensor.name == "token_embd.weight") {
    // Of a table that is no head, single rows are read where they lie.
    return {dtype, config.tied_head ? shard.vocab_rows.count : 0, all};
  }
  if (tensor.name == "position_embd.weight") return {dtype, 0, all};  // likewise
  if (is(".attn_q.")) return {dtype, shard.query_heads.count * head, all};
  if (is(".attn_k.") || is(".attn_v.")) return {dtype, shard.kv_heads.count * head, all};
  if (is(".attn_output.")) {
    return {dtype, tensor.rows, {shard.query_heads.begin * head, shard.query_heads.count * head}};
  }
  if (is(".ffn_down.")) return {dtype, tensor.rows, shard.ffn_columns};
  return {dtype, shard.ffn_columns.count, all};  // gate and up
}

}  // namespace

std::vector<ShardPart> ShardParts(const ModelFile& file, const Shard& shard) {
  const ModelConfig& config = file.config();
  std::vector<ShardPart> parts;
  for (const TensorShape& tensor : ExpectedTensors(config)) {
    if (tensor.rows == 0) continue;
    const GgufTensor* found = file.gguf().FindTensor(tensor.name);
    if (found == nullptr) continue;  // no ModelFile lacks one
    if (!tensor.name.ends_with(".attn_qkv.weight")) {
      parts.push_back(PartOf(tensor, found->dtype, config, shard));
      continue;
    }
    const Range all{0, tensor.columns};
    parts.push_back({found->dtype, shard.query_heads.count * config.head_dim, all});
    for (int i = 0; i < 2; ++i) {
      parts.push_back({found->dtype, shard.kv_heads.count * config.head_dim, all});
    }
  }
  return parts;
}

}  // namespace tandem::core
