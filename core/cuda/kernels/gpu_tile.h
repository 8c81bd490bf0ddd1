#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "core/cpu/linear/tile_format.h"
#include "core/cuda/kernels/device_code.h"

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

/// Where tiles are read from, by byte: the memory of the GPU.
struct GlobalBytes {
  const std::byte* first;
  __device__ uint32_t Word(int64_t at) const { return LoadAs<uint32_t>(first + at); }
  __device__ uint16_t Half(int64_t at) const { return LoadAs<uint16_t>(first + at); }
  __device__ uint8_t Byte(int64_t at) const { return LoadAs<uint8_t>(first + at); }
};

/// The same in shared memory.
struct SharedBytes {
  SharedArray<uint32_t> words;
  __device__ uint32_t Word(int at) const { return words[at / 4]; }
  __device__ uint16_t Half(int at) const {
    return static_cast<uint16_t>(words[at / 4] >> (8 * (at % 4)));
  }
  __device__ uint8_t Byte(int at) const {
    return static_cast<uint8_t>(words[at / 4] >> (8 * (at % 4)));
  }
};

/// Four codes of one row: columns 16 half + 4 group + (0..3), a byte each, from words as they lie:
/// words.Bytes(half, group), Nibbles(group), Pairs(half) and Singles(), as the type has them.
/// Codes of 8 bits are made signed; others still have their zero point.
template <int kBits, typename Words>
__device__ uint32_t CodesFrom(const Words& words, int half, int group) {
  if constexpr (kBits == 8) return words.Bytes(half, group) ^ 0x80808080;
  constexpr bool kNibbles = kBits >= 4;
  uint32_t codes = 0;
  if constexpr (kNibbles) codes = words.Nibbles(group) >> (4 * half) & 0x0f0f0f0f;
  if constexpr (kBits == 2 || kBits == 3 || kBits == 6) {
    codes |= (words.Pairs(half) >> (2 * group) & 0x03030303) << (kNibbles ? 4 : 0);
  }
  if constexpr (kBits == 3 || kBits == 5) {
    codes |= (words.Singles() >> (4 * half + group) & 0x01010101) << (kBits - 1);
  }
  return codes;
}

/// Which vectors of a block the words of CodesFrom are.
template <DType kDtype>
struct VectorsOf {
  static constexpr int kBits = TileOf<kDtype>::kFormat.code_bits;
  static constexpr int kPairs = kBits >= 4 ? 4 : 0;
  static constexpr int kSingles = kPairs + (kBits == 3 ? 2 : 0);
};

struct ScaleOffset {
  float scale;
  float offset;
};

/// The scales of one row and block as they lie: what is read early is converted late.
template <DType kDtype>
struct LaneScales {
  static constexpr TileFormat kFormat = TileOf<kDtype>::kFormat;
  uint16_t scale;
  uint16_t offset;
  uint8_t scale_factors[kFormat.scales_per_block];
  uint8_t offset_factors[kFormat.scales_per_block];

  /// scales: where the block's codes end; header: where that of its super-block is.
  template <typename Bytes, typename At>
  __device__ void Load(const Bytes& bytes, At scales, At header, int row) {
    const At halves = (kFormat.super_blocks ? header : scales) + 2 * row;
    scale = bytes.Half(halves);
    if constexpr (kFormat.has_offset) offset = bytes.Half(halves + TileFormat::kHalfVectorBytes);
    if constexpr (kFormat.super_blocks) {
#pragma unroll
      for (int half = 0; half < kFormat.scales_per_block; ++half) {
        const At factors = scales + half * TileOf<kDtype>::kFactorBytes + row;
        scale_factors[half] = bytes.Byte(factors);
        if constexpr (kFormat.has_offset && !kFormat.nibble_factors) {
          offset_factors[half] = bytes.Byte(factors + kTileRows);
        }
      }
    }
  }

  /// Of a half of the block, or all of it.
  __device__ ScaleOffset Of(int half) const {
    ScaleOffset of_row = {__half2float(__ushort_as_half(scale)), 0.0F};
    if constexpr (kFormat.has_offset) of_row.offset = __half2float(__ushort_as_half(offset));
    if constexpr (kFormat.super_blocks) {
      const int factor = scale_factors[half];
      of_row.scale *=
          static_cast<float>(kFormat.nibble_factors ? factor & 15 : static_cast<int8_t>(factor));
      if constexpr (kFormat.has_offset) {
        of_row.offset *= static_cast<float>(
            kFormat.nibble_factors ? factor >> 4 : static_cast<int8_t>(offset_factors[half]));
      }
    }
    return of_row;
  }
};

/// Where the super-block `super` of a tile begins, which is a header where the type has any. Blocks
/// are counted from the tile's first one, which is `first_block` of its super-block.
template <DType kDtype>
__device__ int64_t SuperBlockAt(int64_t super, int64_t first_block) {
  using Tile = TileOf<kDtype>;
  if (super == 0) return 0;
  return super * (kSuperBlocks * Tile::kBlockBytes + Tile::kHeaderBytes) -
         first_block * Tile::kBlockBytes;
}

/// What a tile has of one row in one block, as it lies.
template <DType kDtype>
struct LaneBlock {
  using Tile = TileOf<kDtype>;
  using Vectors = VectorsOf<kDtype>;
  static constexpr int kWords = static_cast<int>(Tile::kCodeBytes / kVectorBytes);
  uint32_t words[kWords];
  LaneScales<kDtype> scales;

  __device__ void Load(const std::byte* tile, int64_t first_block, int64_t b, int row) {
    const int64_t super = (b + first_block) / kSuperBlocks;
    const int64_t headers = Tile::kFormat.super_blocks ? super + 1 : 0;
    const int64_t block = b * Tile::kBlockBytes + headers * Tile::kHeaderBytes;
    const GlobalBytes bytes{tile};
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      words[i] = bytes.Word(block + i * kVectorBytes + kLaneBytes * row);
    }
    scales.Load(bytes, block + Tile::kCodeBytes, SuperBlockAt<kDtype>(super, first_block), row);
  }

  // For CodesFrom.
  __device__ uint32_t Bytes(int half, int group) const { return words[4 * half + group]; }
  __device__ uint32_t Nibbles(int group) const { return words[group]; }
  __device__ uint32_t Pairs(int half) const { return words[Vectors::kPairs + half]; }
  __device__ uint32_t Singles() const { return words[Vectors::kSingles]; }
};

/// Where the codes of one row in a block lie, for CodesFrom.
template <DType kDtype>
struct RowWords {
  using Vectors = VectorsOf<kDtype>;
  SharedBytes bytes;
  int at;  // the row's lane of the block's first vector

  __device__ uint32_t Vector(int vector) const {
    return bytes.Word(at + static_cast<int>(kVectorBytes) * vector);
  }
  __device__ uint32_t Bytes(int half, int group) const { return Vector(4 * half + group); }
  __device__ uint32_t Nibbles(int group) const { return Vector(group); }
  __device__ uint32_t Pairs(int half) const { return Vector(Vectors::kPairs + half); }
  __device__ uint32_t Singles() const { return Vector(Vectors::kSingles); }
};

}  // namespace tandem::core
