#pragma once

#include <cstdint>

namespace tandem::core {

/// Results of attention's chunks that a GPU keeps at once, in floats: 64 MiB.
inline constexpr int64_t kMostChunkFloats = int64_t{16} << 20;

}  // namespace tandem::core
