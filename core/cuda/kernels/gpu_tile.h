#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "core/cpu/linear/tile_format.h"

/// How kernels read the tiles of core/cpu/linear/tile_format.h.
namespace tandem::core {

inline constexpr int64_t kLaneBytes = 4;  // of a vector of 16 lanes of a tile
inline constexpr int64_t kVectorBytes = 64;

/// The sizes of a type's tiles, as constants: kernels cannot call the functions of TileFormat.
template <DType kDtype>
struct TileOf {
  static constexpr TileFormat kFormat = TileFormatOf(kDtype);
  static constexpr int64_t kHeaderBytes = kFormat.header_bytes();
  static constexpr int64_t kBlockBytes = kFormat.block_bytes();
  static constexpr int64_t kCodeBytes = kFormat.code_bytes();
  static constexpr int64_t kFactorBytes = kFormat.factor_bytes();
};

template <typename T>
__device__ T LoadAs(const std::byte* at) {
  return *reinterpret_cast<const T*>(at);
}

__device__ inline float LoadHalf(const std::byte* at) {
  return __half2float(__ushort_as_half(LoadAs<uint16_t>(at)));
}

/// Four codes of one row: columns 16 half + 4 group + (0..3), as signed bytes. at: the row's lane
/// of the block's first vector.
template <int kBits>
__device__ int32_t LoadCodes(const std::byte* at, int half, int group) {
  const auto load = [at](int64_t vector) { return LoadAs<uint32_t>(at + kVectorBytes * vector); };
  if constexpr (kBits == 8) return static_cast<int32_t>(load(4 * half + group) ^ 0x80808080);
  constexpr bool kNibbles = kBits >= 4;
  constexpr bool kPairs = kBits == 2 || kBits == 3 || kBits == 6;
  constexpr bool kSingles = kBits == 3 || kBits == 5;
  constexpr int kPairsAt = kNibbles ? 4 : 0;
  constexpr int kSinglesAt = kPairsAt + (kPairs ? 2 : 0);
  uint32_t codes = 0;
  if constexpr (kNibbles) codes = load(group) >> (4 * half) & 0x0f0f0f0f;
  if constexpr (kPairs) {
    codes |= (load(kPairsAt + half) >> (2 * group) & 0x03030303) << (kNibbles ? 4 : 0);
  }
  if constexpr (kSingles) {
    codes |= (load(kSinglesAt) >> (4 * half + group) & 0x01010101) << (kBits - 1);
  }
  return static_cast<int32_t>(codes);
}

struct ScaleOffset {
  float scale;
  float offset;
};

/// Of one row and a half of a block, or all of it. scales: what the block has after its codes.
template <DType kDtype>
__device__ ScaleOffset LoadScale(const std::byte* scales, const std::byte* header, int lane,
                                 int half) {
  constexpr TileFormat kFormat = TileOf<kDtype>::kFormat;
  constexpr int64_t kNext = TileFormat::kHalfVectorBytes;
  if constexpr (!kFormat.super_blocks) {
    return {LoadHalf(scales + 2 * lane),
            kFormat.has_offset ? LoadHalf(scales + kNext + 2 * lane) : 0.0F};
  } else {
    const std::byte* factors = scales + half * TileOf<kDtype>::kFactorBytes + lane;
    const int scale_factor =
        kFormat.nibble_factors ? LoadAs<uint8_t>(factors) & 15 : LoadAs<int8_t>(factors);
    ScaleOffset of_row = {LoadHalf(header + 2 * lane) * static_cast<float>(scale_factor), 0.0F};
    if constexpr (kFormat.has_offset) {
      const int offset_factor = kFormat.nibble_factors ? LoadAs<uint8_t>(factors) >> 4
                                                       : LoadAs<int8_t>(factors + kTileRows);
      of_row.offset = LoadHalf(header + kNext + 2 * lane) * static_cast<float>(offset_factor);
    }
    return of_row;
  }
}

/// The blocks of a tile, one after the other.
template <DType kDtype>
struct TileWalk {
  using Tile = TileOf<kDtype>;
  const std::byte* block;
  const std::byte* header;
  int64_t blocks_to_header;

  __device__ TileWalk(const std::byte* tile, int64_t first_block)
      : block(tile + Tile::kHeaderBytes),
        header(tile),
        blocks_to_header(kSuperBlocks - first_block) {}

  __device__ void Next() {
    block += Tile::kBlockBytes;
    if constexpr (Tile::kFormat.super_blocks) {
      if (--blocks_to_header == 0) {
        header = block;
        block += Tile::kHeaderBytes;
        blocks_to_header = kSuperBlocks;
      }
    }
  }
};

}  // namespace tandem::core
