#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "core/tile_format.h"

namespace tandem::core {

/// 32 weights of one row as the tile formats have them: weight = scale * (code - zero_point) +
/// offset. For dtypes with half_scales the bits of the file's float16 stand in half_*, for the
/// others scale and offset are float(d) * sc in float32, never refitted (numerics.md, rule 2).
struct WeightBlock {
  uint8_t codes[kBlockColumns] = {};
  float scale[2] = {};
  float offset[2] = {};
  uint16_t half_scale = 0;
  uint16_t half_offset = 0;
};

/// Block `index` (of 32 columns) of a row of a quantized dtype. Source of the formats: ggml's
/// ggml-common.h and ggml-quants.c.
void ReadWeightBlock(DType dtype, const std::byte* row, int64_t index, WeightBlock& block);

/// Writes one block of a tile: `blocks` are its 16 rows. out: block_bytes of the dtype's format,
/// zeroed before.
void WriteTileBlock(DType dtype, const WeightBlock (&blocks)[kTileRows], std::byte* out);

}  // namespace tandem::core
