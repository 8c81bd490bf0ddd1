#pragma once

#include <algorithm>
#include <cstdint>

namespace tandem::core {

/// Shared memory that products of many tokens need at most.
struct StageNeeds {
  int tiles = 0;        // of a stage
  int tile_bytes = 0;   // each
  int token_bytes = 0;  // of a stage, besides its tiles
  int stages = 0;       // at least 2
};

/// How a block of threads divides its shared memory.
struct MatrixStages {
  int tiles = 0;  // of a stage, at most; not 1 or more: not even that fits
  int stages = 0;
  int stage_bytes = 0;

  constexpr int bytes() const { return stages * stage_bytes; }
};

/// All that is wanted, where `shared_bytes` suffice for it; else fewer stages; else two, of fewer
/// tiles.
constexpr MatrixStages FitStages(const StageNeeds& wanted, int64_t shared_bytes) {
  const auto of = [&](int64_t tiles, int64_t stages) {
    return MatrixStages{static_cast<int>(tiles), static_cast<int>(stages),
                        static_cast<int>(wanted.token_bytes + tiles * wanted.tile_bytes)};
  };
  const int64_t stages = shared_bytes / of(wanted.tiles, 1).stage_bytes;
  if (stages >= 2) return of(wanted.tiles, std::min<int64_t>(stages, wanted.stages));
  return of((shared_bytes / 2 - wanted.token_bytes) / wanted.tile_bytes, 2);
}

}  // namespace tandem::core
