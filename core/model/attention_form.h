#pragma once

#include <cstdint>
#include <optional>

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
///
/// Infini: the keys of the query's own segment of `segment` positions, and a memory of the segments
/// before, in layers without a sliding window. Source: Munkhdalai et al. 2024.
struct AttentionForm {
  /// How a segment is added to the memory (core/cpu/attention/infini_memory.h).
  enum class Update : uint8_t { kDelta, kLinear };

  int window = 0;  // above 0: sparse
  int global = 0;
  int random = 0;     // blocks that each query block sees besides
  uint64_t seed = 0;  // of their choice; 0 without them

  int segment = 0;  // above 0: Infini, a multiple of kPageTokens
  Update update = Update::kDelta;
  std::optional<float> gate = {};  // in place of the model's own

  bool dense() const { return window == 0 && segment == 0; }
  bool sparse() const { return window > 0; }
  bool infini() const { return segment > 0; }
  /// Whether a stream of any length needs no more than a fixed number of keys.
  bool bounded() const { return (sparse() && random == 0) || infini(); }
  bool operator==(const AttentionForm&) const = default;
};

}  // namespace tandem::core
