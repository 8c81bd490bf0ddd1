#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/model/attention_form.h"

namespace tandem::core {

enum class Family { kLlama, kQwen2, kQwen3, kGemma3 };
std::string_view FamilyName(Family family);

enum class RopeLayout {
  kAdjacentPairs,  // (0,1), (2,3), ...: GGUF files of the llama family, whose rows are permuted
  kHalves,         // (0,d/2), (1,d/2+1), ...: all others
};

/// One rotary embedding: angle of pair i at position p is p * inverse_frequencies[i], the rotated
/// pair is multiplied by `magnitude` (1 except with YaRN). All scalings (linear, llama3 by
/// rope_freqs, YaRN) are folded in here, once, at load.
struct Rope {
  RopeLayout layout = RopeLayout::kHalves;
  std::vector<double> inverse_frequencies;  // [rotary dimensions / 2]
  double magnitude = 1.0;
};

enum class Gate { kSilu, kGeluTanh };

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

  float norm_epsilon = 1e-5F;
  float embedding_scale = 1.0F;  // Gemma: sqrt(dim)
  float attention_scale = 1.0F;  // scores are q.k times this
  Gate gate = Gate::kSilu;
  bool qkv_bias = false;               // Qwen2; other families where the file has them
  bool attention_output_bias = false;  // where the file has it
  bool down_bias = false;              // where the file has it
  bool query_key_norm = false;         // Qwen3, Gemma 3
  bool post_norms = false;             // Gemma 3: norms after attention and feed-forward
  bool tied_head = false;              // logits come from the embedding table

  std::vector<int> layer_window;  // [layers] sliding window, 0 = full attention
  Rope rope;                      // full-attention layers
  Rope local_rope;                // sliding-window layers (same as `rope` where the family has one)

  AttentionForm attention;  // as the user wishes; no file says it

  int group_size() const { return heads / kv_heads; }  // query heads per KV head

  /// Query heads of one partial sum of the attention output (numerics.md, rule 3): the smallest
  /// aligned run whose columns are a multiple of 32. Ranks are cut at multiples of it.
  int heads_per_partial_sum() const;
  /// Columns of one partial sum of the feed-forward down product: 64, or 256 where ffn_dim >= 8192.
  int ffn_partial_columns() const { return ffn_dim >= 8192 ? 256 : 64; }
};

}  // namespace tandem::core
