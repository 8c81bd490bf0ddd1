#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/base/status.h"
#include "core/model/kv_view.h"

namespace tandem::core {

/// Which keys queries see, as docs/attention.md defines it. Dense: all up to their own position.
/// Sparse: the key k <= p of a query at position p where at least one of these holds:
///
///     diagonal  p - k < window
///     global    k < global
///     random    ChosenBlocks(form, layer, p / 64) has k / 64
///
/// A layer's own sliding window must allow the key besides. Sources: Zaheer et al. 2020 (BigBird);
/// without random blocks Xiao et al. 2023 (StreamingLLM), at absolute positions.
struct AttentionForm {
  int window = 0;  // 0 = dense, and then all others are 0
  int global = 0;
  int random = 0;     // blocks that each query block sees besides
  uint64_t seed = 0;  // of their choice; 0 without them

  bool sparse() const { return window > 0; }
  bool operator==(const AttentionForm&) const = default;
};

/// What ParseAttentionForm takes.
inline constexpr std::string_view kAttentionGrammar =
    "dense or sparse:window=W[,global=G][,random=R][,seed=S]";

/// "dense" or "sparse:window=W,...": keys in any order, each once, numbers in decimal digits.
/// kInvalidArgument with the place of the first error and the grammar.
absl::StatusOr<AttentionForm> ParseAttentionForm(std::string_view text);
/// The shortest text that ParseAttentionForm makes this form of: equal forms have equal texts.
std::string AttentionText(const AttentionForm& form);

/// The random blocks that a block of queries sees in a layer, ascending. Candidates are the blocks
/// j that are no global tokens' and that the diagonal of no query there reaches: 64 j >= global and
/// 64 (j + 1) <= 64 query_block - window + 1. Of these the form.random with the smallest scores,
/// ties to the lower j: the first two words, low one first, of Philox4x32-10 of the counter (j,
/// query_block, layer, 0) and the seed as key. Time: linear in query_block.
std::vector<int32_t> ChosenBlocks(const AttentionForm& form, int layer, int64_t query_block);

/// ChosenBlocks of many query blocks, kept from step to step. Thread safety: Of may be called by
/// several threads, the rest by one alone.
class BlockChoices {
 public:
  explicit BlockChoices(const AttentionForm& form) : form_(form) {}

  /// Begins a step: spans of steps before are no longer good.
  void Begin();
  /// Chooses for the query blocks of the positions [first, last].
  void Prepare(int layer, int64_t first, int64_t last);
  /// The choice of a query block that was prepared; good until the next Begin.
  std::span<const int32_t> Of(int layer, int64_t query_block) const;

 private:
  const AttentionForm form_;
  std::unordered_map<uint64_t, std::vector<int32_t>> chosen_;  // by layer and query block
  size_t kept_ = 0;                                            // numbers in chosen_
};

/// What one query sees in sparse attention: of the keys [first, position] those below `global`,
/// those from `diagonal` on, and those of the chosen blocks.
struct SparseSight {
  int64_t position = 0;
  int64_t first = 0;  // that the layer's own window allows
  int64_t global = 0;
  int64_t diagonal = 0;
  std::span<const int32_t> chosen;  // ascending

  /// layer_window: the layer's own, 0 = none; chosen: the choice of position / 64.
  static SparseSight Of(const AttentionForm& form, int layer_window, int64_t position,
                        std::span<const int32_t> chosen);

  /// Bit i: sees the key at 64 block + i.
  uint64_t OfBlock(int64_t block) const;
  /// Whether it sees any key of a chunk of kChunkTokens.
  bool SeesChunk(int64_t chunk) const;
  /// Appends the chunks of which it sees any key, ascending.
  void AppendChunks(std::vector<int32_t>& chunks) const;
};

}  // namespace tandem::core
