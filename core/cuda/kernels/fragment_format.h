#pragma once

#include <cstdint>

#include "core/cpu/linear/tile_format.h"
#include "core/cpu/simd/host_device.h"
#include "core/model/dtype.h"

namespace tandem::core {

/// Blocks of 32 columns that lie together, lane by lane of a warp.
inline constexpr int kUnitBlocks = 2;
/// Threads of a warp, each of which holds a fragment of a tile.
inline constexpr int kLanes = 32;

/// How a tile of quantized weights lies in a GPU's memory: in the order of the fragments that
/// tensor cores take (MultiplyBytes32 of core/cuda/kernels/device_code.h), so that a warp reads
/// consecutive bytes, 16 a thread, and each thread has what it multiplies.
///
/// A tile has the rows, blocks, codes and scales of a tile of core/cpu/linear/tile_format.h. It is
/// units of two blocks (64 columns), one after the other, counted from where super-blocks of the
/// file begin; so the first and the last unit of a tile may have one block alone, and zeros for the
/// other. With K-quants a header stands before the first unit, and before each that begins a
/// super-block.
///
/// Lane l of a warp has row = l / 4 and four = l % 4. Its fragment of a block is four words of four
/// codes: word i is row + 8 (i % 2), columns 16 (i / 2) + 4 four to 4 four + 3. A code is stored
/// less its zero point, in two's complement of code_bits. A unit is planes, each [32 lanes]:
///
///     8 bits: 16 bytes a lane, the words of the first block; then the same of the second.
///     nibbles (4, 5 and 6 bits): 16 bytes a lane; word 2 block + i has word i of that block in
///         bits 0-3 of each byte, and word i + 2 in bits 4-7.
///     pairs (2, 3 and 6 bits): 8 bytes a lane, one word a block, with word i in bits 2 i.
///     bits (3 and 5 bits): 4 bytes a lane, with word i of a block in bit 4 block + i.
///
/// Planes stand in the order nibbles, pairs, bits, and are joined as those of the tile format are.
/// Behind them are the scales, [8 rows][2 blocks] of what the rows `row` and row + 8 have:
///
///     Q4_0 to Q8_0: a word of the two float16 scales; and a word of the two offsets, if any.
///     Q4_K, Q5_K: four bytes: the two factors of scales, the two of offsets.
///     Q2_K, Q3_K, Q6_K: four bytes: the two of columns 0 to 15, the two of 16 to 31.
///
/// A header is [8 rows] words of the two float16 d; and the same of -dmin, if any.
struct FragmentFormat {
  TileFormat tile;

  constexpr int64_t code_bytes() const { return kUnitBlocks * tile.code_bytes(); }
  /// Words of scales that two rows of a block have.
  constexpr int scale_words() const { return tile.has_offset && !tile.super_blocks ? 2 : 1; }
  constexpr int64_t unit_bytes() const {
    return code_bytes() + int64_t{kTileRows / 2} * kUnitBlocks * scale_words() * 4;
  }
  constexpr int64_t header_bytes() const { return tile.header_bytes(); }
  /// Units of a tile of `blocks` blocks, the first of which is `first_block` of a super-block.
  static constexpr int64_t units(int64_t first_block, int64_t blocks) {
    if (blocks == 0) return 0;
    return (first_block + blocks + 1) / kUnitBlocks - first_block / kUnitBlocks;
  }
  constexpr int64_t tile_bytes(int64_t first_block, int64_t blocks) const {
    return units(first_block, blocks) * unit_bytes() +
           tile.headers(first_block, blocks) * header_bytes();
  }
};

constexpr FragmentFormat FragmentFormatOf(DType dtype) { return {TileFormatOf(dtype)}; }

/// Units of a super-block.
inline constexpr int kSuperUnits = kSuperBlocks / kUnitBlocks;

/// Codes of activations in a block lie so that a lane has what it multiplies in 8 consecutive
/// bytes: columns 4 four to 4 four + 3, and the same 16 further.
constexpr TANDEM_HOST_DEVICE int CodePlace(int column) {
  return column % 16 / 4 * 8 + column / 16 * 4 + column % 4;
}

}  // namespace tandem::core
