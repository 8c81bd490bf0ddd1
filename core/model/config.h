#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/model/attention_form.h"
#include "core/model/family.h"
#include "core/model/norm.h"

namespace tandem::core {

/// One rotary embedding; nothing is rotated where it has no frequencies. The angle of pair i at
/// position p is p * inverse_frequencies[i], the rotated pair is multiplied by `magnitude` (1
/// except with YaRN). All scalings (linear, llama3 by rope_freqs, YaRN) are folded in here, once,
/// at load.
struct Rope {
  RopeLayout layout = RopeLayout::kHalves;
  std::vector<double> inverse_frequencies;  // [rotary dimensions / 2]
  double magnitude = 1.0;
};

/// Every number of a model's shape, named once. Read from the file's metadata; checked to be
/// consistent and within limits.
struct ModelConfig {
  Family family = Family::kLlama;
  std::string name;  // general.name, for people
  int layers = 0;
  int dim = 0;
  int ffn_dim = 0;
  int heads = 0;  // query heads
  int kv_heads = 0;
  int head_dim = 0;
  int vocab = 0;    // rows of the embedding, unpadded
  int context = 0;  // longest sequence the model was made for

  NormKind norm = NormKind::kRms;        // of attention, feed-forward and output
  float norm_epsilon = 1e-5F;            // of these
  float head_norm_epsilon = 1e-5F;       // of queries and keys, which are kRms
  float embedding_norm_epsilon = 1e-5F;  // of the embedding, which is kLayer
  float embedding_scale = 1.0F;          // Gemma: sqrt(dim)
  float attention_scale = 1.0F;          // scores are q.k times this
  float alibi_max_bias = 0.0F;           // AlibiSlopes; 0: scores know no distance
  Activation activation = Activation::kSilu;
  bool gated = true;               // activation(gate x) * up x, else activation(up x)
  bool parallel_residual = false;  // attention and feed-forward read the same residual
  bool query_key_norm = false;     // Qwen3, Gemma 3
  bool post_norms = false;         // Gemma 3: norms after attention and feed-forward
  bool tied_head = false;          // logits come from the embedding table
  bool norm_weights = true;        // norms must have a weight; else one that is missing is 1

  /// Names of tensors that the file has, or must have; of layers those of the first, without
  /// "blk.0.". Those that only some models have are looked up here: biases, learned positions,
  /// fused queries, keys and values.
  std::set<std::string, std::less<>> parts;

  std::vector<int> layer_window;  // [layers] sliding window, 0 = full attention
  Rope rope;                      // full-attention layers
  Rope local_rope;                // sliding-window layers (same as `rope` where the family has one)

  // As the user wishes; no file says it.
  AttentionForm attention;
  int state_interval = 2048;  // KvLayerGroup::state_interval

  bool Has(std::string_view part) const { return parts.contains(part); }
  /// Whether there is any tensor of a norm.
  bool HasNorm(std::string_view norm_name) const;
  /// Whether the feed-forward block has a norm of its own.
  bool HasFeedForwardNorm() const;

  int group_size() const { return heads / kv_heads; }  // query heads per KV head

  /// Query heads of one partial sum of the attention output (numerics.md, rule 3): the smallest
  /// aligned run whose columns are a multiple of 32. Ranks are cut at multiples of it.
  int heads_per_partial_sum() const;
  /// Columns of one partial sum of the feed-forward down product: 64, or 256 where ffn_dim >= 8192.
  int ffn_partial_columns() const { return ffn_dim >= 8192 ? 256 : 64; }
};

/// ALiBi: the score of a key k for a query at p is q.k * scale - slope * (p - k), with a slope for
/// each of the model's heads. Of n heads, m = the largest power of two that is at most n: head h <
/// m has 2^(-max_bias (h + 1) / m), the others 2^(-max_bias (2 (h - m) + 1) / (2 m)), rounded once.
/// [heads], empty for max_bias 0. Source: Press et al. 2022, and their code for other n.
std::vector<float> AlibiSlopes(float max_bias, int heads);

}  // namespace tandem::core
