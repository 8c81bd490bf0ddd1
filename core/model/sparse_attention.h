#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "core/model/attention_form.h"
#include "core/model/kv_view.h"

namespace tandem::core {

/// The random blocks that a block of queries sees in a layer, ascending. Candidates are the blocks
/// j that are no global tokens' and that the diagonal of no query there reaches: 64 j >= global and
/// 64 (j + 1) <= 64 query_block - window + 1. Of these the form.random with the smallest scores,
/// ties to the lower j: the first two words, low one first, of Philox4x32-10 of the counter (j,
/// query_block, layer, 0) and the seed as key. Time: linear in query_block.
std::vector<int32_t> ChosenBlocks(const AttentionForm& form, int layer, int64_t query_block);

/// What one query sees in sparse attention: of the keys [first, position] those below `global`,
/// those from `diagonal` on, and those of the chosen blocks.
struct SparseSight {
  int64_t position = 0;
  int64_t first = 0;  // that the layer's own window allows
  int64_t global = 0;
  int64_t diagonal = 0;
  std::span<const int32_t> chosen;  // ascending

  /// Bit i: sees the key at 64 block + i.
  uint64_t OfBlock(int64_t block) const;
  /// Whether it sees any key of a chunk of kChunkTokens.
  bool SeesChunk(int64_t chunk) const;
  /// Appends the chunks of which it sees any key, ascending.
  void AppendChunks(std::vector<int32_t>& chunks) const;
};

/// The sparse attention of a model's layers: its form, and the blocks that were chosen, kept from
/// step to step. Thread safety: SightOf may be called by several threads, the rest by one alone.
class SparseAttention {
 public:
  explicit SparseAttention(const AttentionForm& form) : form_(form) {}

  const AttentionForm& form() const { return form_; }
  /// Begins a step: sights of steps before are no longer good.
  void Begin();
  /// Chooses blocks for the queries at the positions [first, last].
  void Prepare(int layer, int64_t first, int64_t last);
  /// What the query at a position that was prepared sees; good until the next Begin. layer_window:
  /// the layer's own, 0 = none.
  SparseSight SightOf(int layer, int layer_window, int64_t position) const;

 private:
  const AttentionForm form_;
  std::unordered_map<uint64_t, std::vector<int32_t>> chosen_;  // by layer and query block
  size_t kept_ = 0;                                            // numbers in chosen_
};

}  // namespace tandem::core
