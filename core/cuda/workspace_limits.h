#pragma once

#include <cstdint>

namespace tandem::core {

/// Results of attention's chunks that a GPU keeps at once, in floats: 64 MiB.
inline constexpr int64_t kMostChunkFloats = int64_t{16} << 20;

/// Tokens of a group of sparse attention, at most.
inline constexpr int64_t kMostSparseTokens = 4;

/// Keys of candidates that selections hold at once: 64 MiB.
inline constexpr int64_t kMostSelectionKeys = int64_t{8} << 20;
/// Weights that fast mode expands to bfloat16 at once: 128 MiB.
inline constexpr int64_t kMostExpandedWeights = int64_t{64} << 20;

}  // namespace tandem::core
