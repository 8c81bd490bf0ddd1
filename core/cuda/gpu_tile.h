#pragma once

#include <cstdint>

#include "core/cpu/linear/tile_format.h"

namespace tandem::core {

/// The sizes of a type's tiles, as constants: kernels cannot call the functions of TileFormat.
template <DType kDtype>
struct TileOf {
  static constexpr TileFormat kFormat = TileFormatOf(kDtype);
  static constexpr int64_t kHeaderBytes = kFormat.header_bytes();
  static constexpr int64_t kBlockBytes = kFormat.block_bytes();
  static constexpr int64_t kCodeBytes = kFormat.code_bytes();
  static constexpr int64_t kFactorBytes = kFormat.factor_bytes();
};

}  // namespace tandem::core
