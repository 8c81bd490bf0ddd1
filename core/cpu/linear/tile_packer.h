#pragma once

#include <cstddef>
#include <cstdint>

#include "core/cpu/linear/tile_format.h"
#include "core/model/dtype.h"

namespace tandem::core {

/// 32 weights of one row as the tile formats have them: weight = scale * (code - zero_point) +
/// offset, where scale is half_scale and offset half_offset, for K-quants times the factors of the
/// half. For these half_offset is -dmin (the float16 of the file with its sign changed).
struct WeightBlock {
  uint8_t codes[kBlockColumns] = {};
  uint16_t half_scale = 0;
  uint16_t half_offset = 0;
  int8_t scale_factor[2] = {};
  int8_t offset_factor[2] = {};
};

/// Block `index` (of 32 columns) of a row of a quantized dtype. Source of the formats: ggml's
/// ggml-common.h and ggml-quants.c.
void ReadWeightBlock(DType dtype, const std::byte* row, int64_t index, WeightBlock& block);

/// Writes one block of a tile: `blocks` are its 16 rows. out: block_bytes of the dtype's format.
void WriteTileBlock(DType dtype, const WeightBlock (&blocks)[kTileRows], std::byte* out);

/// Writes the header of a super-block of K-quants, from any of its blocks. out: header_bytes.
void WriteTileHeader(DType dtype, const WeightBlock (&blocks)[kTileRows], std::byte* out);

/// The rows of a tile: where each begins in the file; null where the tile has fewer than 16.
using TileRows = const std::byte* [kTileRows];

/// Packs blocks [first_block, first_block + blocks) of a quantized dtype's rows into a tile of
/// zeros, in the layout of tile_format.h. One row and block at a time: the slow, obvious way, and
/// the only one for missing rows and for Q2_K and Q3_K.
void PackTileByRows(DType dtype, const TileRows& rows, int64_t first_block, int64_t blocks,
                    std::byte* tile);

/// The same tile, eight rows at a time. False, and nothing written, where the dtype has no such
/// way. No row may be missing.
bool PackWholeTile(DType dtype, const TileRows& rows, int64_t first_block, int64_t blocks,
                   std::byte* tile);

/// A tile of elements of 4 or 2 bytes: [columns][16 rows]. rows: the first column of each. No row
/// may be missing.
void PackWholeTile32(const TileRows& rows, int64_t columns, std::byte* tile);
void PackWholeTile16(const TileRows& rows, int64_t columns, std::byte* tile);

}  // namespace tandem::core
