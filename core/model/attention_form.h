#pragma once

#include <cstdint>

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
  /// Whether a stream of any length needs no more than a fixed number of keys.
  bool bounded() const { return sparse() && random == 0; }
  bool operator==(const AttentionForm&) const = default;
};

}  // namespace tandem::core
