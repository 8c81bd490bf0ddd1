#include "core/cuda/gpu_needs.h"

#include <algorithm>
#include <set>
#include <vector>

#include "core/cuda/blas/cuda_blas.h"
#include "core/cuda/fragment_packer.h"
#include "core/cuda/workspace_limits.h"
#include "core/formats/expected_tensors.h"
#include "core/formats/shard_parts.h"
#include "core/model/model.h"

namespace tandem::core {
namespace {

constexpr int64_t kFloat = sizeof(float);

int64_t BlocksOf(int64_t columns) { return (columns + kBlockColumns - 1) / kBlockColumns; }

int64_t VectorElements(const TensorShape& tensor, const ModelConfig& config, const Shard& shard) {
  if (tensor.name == "output.bias") return shard.vocab_rows.count;
  if (tensor.name.ends_with(".ffn_up.bias")) return shard.ffn_columns.count;
  if (tensor.name.ends_with(".attn_qkv.bias")) {
    return (shard.query_heads.count + 2 * shard.kv_heads.count) * config.head_dim;
  }
  if (tensor.name.ends_with(".attn_q.bias")) return shard.query_heads.count * config.head_dim;
  if (tensor.name.ends_with(".attn_k.bias") || tensor.name.ends_with(".attn_v.bias")) {
    return shard.kv_heads.count * config.head_dim;
  }
  return tensor.columns;
}

/// Weight and bias of a batch norm: scale and shift, which are made of them, are as long as its
/// statistics, which are counted.
bool IsFolded(const ModelFile& file, std::string_view name) {
  const size_t dot = name.rfind('.');
  const std::string_view part = name.substr(dot);
  return (part == ".weight" || part == ".bias") &&
         file.Has(fmt::format("{}.running_var", name.substr(0, dot)));
}

/// Chunks that a token sees in a layer, at most.
int64_t ChunksSeen(const ModelConfig& config) {
  const auto chunks_of = [](int64_t keys) { return (keys + kChunkTokens - 1) / kChunkTokens; };
  const int64_t all = chunks_of(config.context);
  const AttentionForm& form = config.attention;
  if (!form.sparse()) return all;
  return std::min(all, chunks_of(form.window) + 1 + chunks_of(form.global) + form.random);
}

/// Of CudaSparseStep: for each token, or group of them, a number and two for each chunk; without
/// random blocks the same for all layers of a window.
int64_t SparseListsOf(const ModelConfig& config, const StepSize& step) {
  if (!config.attention.sparse()) return 0;
  std::set<int> windows(config.layer_window.begin(), config.layer_window.end());
  const int64_t lists =
      config.attention.random > 0 ? config.layers : static_cast<int64_t>(windows.size());
  return int64_t{sizeof(int32_t)} * lists * (1 + step.tokens * (1 + 2 * ChunksSeen(config)));
}

int64_t WorkspaceOf(const ModelConfig& config, const Shard& shard, const StepSize& step) {
  const int64_t dim = config.dim;
  const int64_t query = shard.query_heads.count * config.head_dim;
  const int64_t key = shard.kv_heads.count * config.head_dim;
  const int64_t ffn = shard.ffn_columns.count;
  // Of Transformer: x, normed, fed, query, key, value, attended; partial sums; rows with logits.
  int64_t bytes = step.tokens * kFloat * (3 * dim + 2 * query + 2 * key);
  bytes += (step.tokens + (step.tokens + dim - 1) / dim) * dim * int64_t{sizeof(int64_t)};
  bytes += step.logit_rows * kFloat * (dim + shard.vocab_rows.count);
  // Of CudaOperations: gate and up, the codes of a product's input, attention's results by chunks.
  bytes += step.tokens * kFloat * 2 * ffn;
  const int64_t blocks = BlocksOf(std::max({dim, query, ffn}));
  bytes += step.tokens * blocks * (kBlockColumns + kFloat + 2 * int64_t{sizeof(int32_t)});
  // Of sparse attention a group's tokens see chunks of their own.
  const int64_t together = config.attention.sparse() ? kMostSparseTokens : 1;
  const int64_t chunks = std::min(together * ChunksSeen(config),
                                  (int64_t{config.context} + kChunkTokens - 1) / kChunkTokens);
  bytes += kFloat * std::max(kMostChunkFloats,
                             together * shard.query_heads.count * chunks * (config.head_dim + 2));
  bytes += SparseListsOf(config, step);
  // Rows of the embedding table, which are floats at most, and of positions as they are in the file
  // and expanded; candidates and their keys.
  bytes += step.tokens * kFloat * dim;
  if (config.Has("position_embd.weight")) bytes += step.tokens * kFloat * 2 * dim;
  if (config.alibi_max_bias > 0.0F) bytes += shard.query_heads.count * kFloat;
  bytes += int64_t{sizeof(uint64_t)} *
           std::min(2 * kMostSelectionKeys, 3 * step.logit_rows * shard.vocab_rows.count);
  // The step's places and angles, and its flags and chosen rows.
  const auto groups = static_cast<int64_t>(LayerGroups(config).size());
  const auto angles = static_cast<int64_t>(config.rope.inverse_frequencies.size() +
                                           config.local_rope.inverse_frequencies.size());
  int64_t sent = kFloat * (step.tokens * (1 + groups + 2 * angles) + groups * step.blocks);
  bytes += sent;
  // What is sent while the step before is computed lands in two places besides its own.
  sent += step.tokens * kFloat * dim;
  if (config.Has("position_embd.weight")) sent += step.tokens * kFloat * dim;
  bytes += 2 * (sent + SparseListsOf(config, step));
  return bytes + step.tokens + step.logit_rows * int64_t{sizeof(int32_t)};
}

/// Of CudaDenseProducts: a product's input and weights in bfloat16, and its sums.
int64_t FastWorkspaceOf(const ModelConfig& config, const Shard& shard, const StepSize& step) {
  constexpr int64_t kBfloat16 = sizeof(uint16_t);
  const int64_t dim = config.dim;
  const int64_t query = shard.query_heads.count * config.head_dim;
  const int64_t ffn = shard.ffn_columns.count;
  const int64_t widest = std::max({dim, query, ffn});
  const int64_t largest =
      std::max(dim * std::max({query, ffn, shard.vocab_rows.count}), widest * int64_t{kTileRows});
  return kBlasWorkspaceBytes + step.tokens * (kBfloat16 * widest + kFloat * dim) +
         kBfloat16 * std::min(largest, std::max(kMostExpandedWeights, widest * kTileRows));
}

}  // namespace

GpuNeeds NeedsOfGpu(const ModelFile& file, const Shard& shard, ActivationMode mode,
                    const StepSize& step, bool exact) {
  const ModelConfig& config = file.config();
  GpuNeeds needs;
  for (const TensorShape& tensor : ExpectedTensors(config)) {
    if (tensor.rows > 0 || IsFolded(file, tensor.name)) continue;
    needs.weights += kFloat * VectorElements(tensor, config, shard);
  }
  for (const ShardPart& part : ShardParts(file, shard)) {
    needs.weights += BytesOnGpu(part.dtype, part.rows, part.columns, mode);
    needs.elements += part.rows * part.columns.count;
  }
  needs.workspace =
      WorkspaceOf(config, shard, step) + (exact ? 0 : FastWorkspaceOf(config, shard, step));
  return needs;
}

}  // namespace tandem::core
