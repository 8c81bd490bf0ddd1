#pragma once

#include <cstdint>

#include "core/model/dtype.h"

namespace tandem::core {

inline constexpr int kTileRows = 16;  // logical lanes (numerics.md, rule 1)
inline constexpr int kBlockColumns = 32;

/// Blocks of 32 columns that share the d (and dmin) of a K-quant.
inline constexpr int kSuperBlocks = 8;

/// How 16 rows x 32 columns of a dtype lie in a packed tile.
///
/// A matrix is tiles of 16 rows, one after the other; a tile is its blocks in ascending columns,
/// one after the other; nothing stands between them but the headers of K-quants.
///
/// Float dtypes: a block is [32 columns][16 rows] of the dtype.
///
/// Quantized dtypes: weight = scale * (code - zero_point) + offset, with unsigned codes of
/// `code_bits`. A block is planes of codes, then its scales. In memory a plane is vectors of 16
/// lanes of 32 bits: lane = row, byte k of the lane. Vector j (0..3) of half h (0, 1) of the codes
/// is the columns 16 h + 4 j + k. With v = the byte in question:
///
///     8 bits: 8 vectors, vector 4 h + j is the codes.
///     nibbles (4, 5 and 6 bits; 256 bytes): 4 vectors; vector j is half 0 in bits 0-3, half 1 in
///         bits 4-7.
///     pairs (2, 3 and 6 bits; 128 bytes): 2 vectors; vector h has column group j in bits 2 j and
///         2 j + 1.
///     bits (3 and 5 bits; 64 bytes): 1 vector; half h, group j is bit 4 h + j.
///
///     5 = nibbles + bits << 4, 6 = nibbles + pairs << 4, 3 = pairs + bits << 2. Planes stand in
///     the order nibbles, pairs, bits.
///
/// So a 32-bit lane holds four consecutive columns of one row, as `vpdpbusd` wants them.
///
/// Scales of Q4_0 to Q8_0: the file's float16 scales [16 rows], then float16 offsets [16 rows]
/// where there are any.
///
/// Scales of K-quants, which in the file are a float16 times a small integer: wherever a
/// super-block of 256 columns of the file begins, and at the beginning of the tile, stands a
/// header: float16 d [16 rows], and where there are offsets float16 -dmin [16 rows]. The block has,
/// for each half (scales_per_block), int8 factors [16 rows], and where there are offsets those of
/// the offsets [16 rows]; with nibble_factors both in one byte, the scale's low. scale = float(d) *
/// factor, offset = float(-dmin) * factor, each rounded once. So a tile takes the file's bytes (3.6
/// % more at most, Q3_K), and may begin and end at any block.
struct TileFormat {
  int code_bits = 0;  // 0 for float dtypes
  bool has_offset = false;
  bool super_blocks = false;    // K-quants
  bool nibble_factors = false;  // of super-blocks
  int scales_per_block = 1;     // 2: one for each 16 columns
  int zero_point = 0;
  int element_bytes = 0;  // of float dtypes

  constexpr bool quantized() const { return code_bits != 0; }
  constexpr int64_t code_bytes() const { return int64_t{64} * code_bits; }
  /// Of a vector of scales or offsets in a block or header.
  static constexpr int64_t kHalfVectorBytes = kTileRows * 2;
  /// What each half of a block of K-quants has after its codes.
  constexpr int64_t factor_bytes() const {
    return kTileRows * (has_offset && !nibble_factors ? 2 : 1);
  }
  constexpr int64_t header_bytes() const {
    return super_blocks ? kHalfVectorBytes * (has_offset ? 2 : 1) : 0;
  }
  constexpr int64_t block_bytes() const {
    if (!quantized()) return int64_t{kTileRows} * kBlockColumns * element_bytes;
    return code_bytes() + (super_blocks ? factor_bytes() * scales_per_block
                                        : kHalfVectorBytes * (has_offset ? 2 : 1));
  }
  /// Headers in a tile of `blocks` blocks from block `first_block` of the file's rows on.
  constexpr int64_t headers(int64_t first_block, int64_t blocks) const {
    if (!super_blocks || blocks == 0) return 0;
    return (first_block % kSuperBlocks + blocks + kSuperBlocks - 1) / kSuperBlocks;
  }
};

constexpr TileFormat TileFormatOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return {.element_bytes = 4};
    case DType::kF16:
    case DType::kBF16:
      return {.element_bytes = 2};
    case DType::kQ4_0:
      return {.code_bits = 4, .zero_point = 8};
    case DType::kQ4_1:
      return {.code_bits = 4, .has_offset = true};
    case DType::kQ5_0:
      return {.code_bits = 5, .zero_point = 16};
    case DType::kQ5_1:
      return {.code_bits = 5, .has_offset = true};
    case DType::kQ8_0:
      return {.code_bits = 8, .zero_point = 128};
    case DType::kQ2_K:
      return {.code_bits = 2,
              .has_offset = true,
              .super_blocks = true,
              .nibble_factors = true,
              .scales_per_block = 2};
    case DType::kQ3_K:
      return {.code_bits = 3, .super_blocks = true, .scales_per_block = 2, .zero_point = 4};
    case DType::kQ4_K:
      return {.code_bits = 4, .has_offset = true, .super_blocks = true};
    case DType::kQ5_K:
      return {.code_bits = 5, .has_offset = true, .super_blocks = true};
    case DType::kQ6_K:
      return {.code_bits = 6, .super_blocks = true, .scales_per_block = 2, .zero_point = 32};
  }
  return {};
}

}  // namespace tandem::core
