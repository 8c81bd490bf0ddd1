#include "core/cpu/linear/tile_packer.h"

#include <cstring>

namespace tandem::core {
namespace {

constexpr int kHalfColumns = kBlockColumns / 2;

uint8_t Byte(const std::byte* data, int64_t at) { return static_cast<uint8_t>(data[at]); }

uint16_t HalfAt(const std::byte* data) {
  uint16_t half;
  std::memcpy(&half, data, sizeof(half));
  return half;
}

uint16_t Negated(uint16_t half) { return half ^ 0x8000; }

/// 16 bytes: columns 0..15 in the low nibbles, 16..31 in the high ones.
void ReadNibbles(const std::byte* quants, WeightBlock& block) {
  for (int i = 0; i < kHalfColumns; ++i) {
    block.codes[i] = Byte(quants, i) & 15;
    block.codes[kHalfColumns + i] = Byte(quants, i) >> 4;
  }
}

/// Bit i of four bytes is bit 4 of code i.
void AddFifthBits(const std::byte* high, WeightBlock& block) {
  uint32_t bits;
  std::memcpy(&bits, high, sizeof(bits));
  for (int i = 0; i < kBlockColumns; ++i) {
    block.codes[i] = static_cast<uint8_t>(block.codes[i] | ((bits >> i) & 1) << 4);
  }
}

// Below, `sub` (0..7) is the block of 32 within a K-quant's 256.

void ReadQ2K(const std::byte* data, int sub, WeightBlock& block) {
  const std::byte* scales = data;
  const std::byte* quants = data + 16 + kBlockColumns * (sub / 4);
  block.half_scale = HalfAt(data + 80);
  block.half_offset = Negated(HalfAt(data + 82));
  for (int half = 0; half < 2; ++half) {
    const int packed = Byte(scales, 2 * sub + half);
    block.scale_factor[half] = static_cast<int8_t>(packed & 15);
    block.offset_factor[half] = static_cast<int8_t>(packed >> 4);
  }
  for (int i = 0; i < kBlockColumns; ++i) {
    block.codes[i] = Byte(quants, i) >> (2 * (sub % 4)) & 3;
  }
}

void ReadQ3K(const std::byte* data, int sub, WeightBlock& block) {
  const std::byte* high = data;
  const std::byte* quants = data + 32 + kBlockColumns * (sub / 4);
  const std::byte* scales = data + 96;
  block.half_scale = HalfAt(data + 108);
  for (int half = 0; half < 2; ++half) {
    const int k = 2 * sub + half;
    const int low = k < 8 ? Byte(scales, k) & 15 : Byte(scales, k - 8) >> 4;
    const int top = Byte(scales, 8 + k % 4) >> (2 * (k / 4)) & 3;
    block.scale_factor[half] = static_cast<int8_t>((low | top << 4) - 32);
  }
  for (int i = 0; i < kBlockColumns; ++i) {
    const int low = Byte(quants, i) >> (2 * (sub % 4)) & 3;
    block.codes[i] = static_cast<uint8_t>(low | (Byte(high, i) >> sub & 1) << 2);
  }
}

/// Scale and minimum of Q4_K and Q5_K: 8 pairs of 6 bits in 12 bytes.
void ReadScaleMinimum(const std::byte* data, int sub, WeightBlock& block) {
  const std::byte* packed = data + 4;
  int scale;
  int minimum;
  if (sub < 4) {
    scale = Byte(packed, sub) & 63;
    minimum = Byte(packed, sub + 4) & 63;
  } else {
    scale = (Byte(packed, sub + 4) & 15) | Byte(packed, sub - 4) >> 6 << 4;
    minimum = Byte(packed, sub + 4) >> 4 | Byte(packed, sub) >> 6 << 4;
  }
  block.half_scale = HalfAt(data);
  block.half_offset = Negated(HalfAt(data + 2));
  block.scale_factor[0] = static_cast<int8_t>(scale);
  block.offset_factor[0] = static_cast<int8_t>(minimum);
}

/// 32 bytes hold the nibbles of two blocks.
void ReadSharedNibbles(const std::byte* quants, int sub, WeightBlock& block) {
  const int shift = sub % 2 * 4;
  for (int i = 0; i < kBlockColumns; ++i) {
    block.codes[i] = Byte(quants, kBlockColumns * (sub / 2) + i) >> shift & 15;
  }
}

void ReadQ5K(const std::byte* data, int sub, WeightBlock& block) {
  ReadScaleMinimum(data, sub, block);
  ReadSharedNibbles(data + 48, sub, block);
  const std::byte* high = data + 16;
  for (int i = 0; i < kBlockColumns; ++i) {
    block.codes[i] = static_cast<uint8_t>(block.codes[i] | (Byte(high, i) >> sub & 1) << 4);
  }
}

void ReadQ6K(const std::byte* data, int sub, WeightBlock& block) {
  const int quarter = sub % 4;
  const std::byte* low = data + 64 * (sub / 4) + kBlockColumns * (quarter % 2);
  const std::byte* high = data + 128 + kBlockColumns * (sub / 4);
  block.half_scale = HalfAt(data + 208);
  for (int half = 0; half < 2; ++half) {
    block.scale_factor[half] = static_cast<int8_t>(Byte(data, 192 + 2 * sub + half));
  }
  for (int i = 0; i < kBlockColumns; ++i) {
    const int nibble = Byte(low, i) >> (quarter / 2 * 4) & 15;
    const int top = Byte(high, i) >> (2 * quarter) & 3;
    block.codes[i] = static_cast<uint8_t>(nibble | top << 4);
  }
}

/// Four codes of columns 16 half + 4 group + (0..3).
uint32_t Group(const WeightBlock& block, int half, int group) {
  uint32_t codes;
  std::memcpy(&codes, block.codes + kHalfColumns * half + 4 * group, sizeof(codes));
  return codes;
}

void Put(std::byte* plane, int vector, int row, uint32_t lane) {
  std::memcpy(plane + 64 * vector + 4 * row, &lane, sizeof(lane));
}

void WriteNibbles(const WeightBlock& block, int row, std::byte* plane) {
  constexpr uint32_t kMask = 0x0f0f0f0f;
  for (int group = 0; group < 4; ++group) {
    Put(plane, group, row,
        (Group(block, 0, group) & kMask) | (Group(block, 1, group) & kMask) << 4);
  }
}

void WritePairs(const WeightBlock& block, int row, int from_bit, std::byte* plane) {
  for (int half = 0; half < 2; ++half) {
    uint32_t lane = 0;
    for (int group = 0; group < 4; ++group) {
      lane |= (Group(block, half, group) >> from_bit & 0x03030303) << (2 * group);
    }
    Put(plane, half, row, lane);
  }
}

void WriteSingles(const WeightBlock& block, int row, int from_bit, std::byte* plane) {
  uint32_t lane = 0;
  for (int half = 0; half < 2; ++half) {
    for (int group = 0; group < 4; ++group) {
      lane |= (Group(block, half, group) >> from_bit & 0x01010101) << (4 * half + group);
    }
  }
  Put(plane, 0, row, lane);
}

void WriteCodes(int bits, const WeightBlock& block, int row, std::byte* out) {
  constexpr int kNibblePlane = 256;
  constexpr int kPairPlane = 128;
  switch (bits) {
    case 2:
      return WritePairs(block, row, 0, out);
    case 3:
      WritePairs(block, row, 0, out);
      return WriteSingles(block, row, 2, out + kPairPlane);
    case 4:
      return WriteNibbles(block, row, out);
    case 5:
      WriteNibbles(block, row, out);
      return WriteSingles(block, row, 4, out + kNibblePlane);
    case 6:
      WriteNibbles(block, row, out);
      return WritePairs(block, row, 4, out + kNibblePlane);
    default:
      for (int vector = 0; vector < 8; ++vector) {
        Put(out, vector, row, Group(block, vector / 4, vector % 4));
      }
  }
}

void WriteHalves(const TileFormat& format, const WeightBlock (&blocks)[kTileRows], std::byte* out) {
  for (int row = 0; row < kTileRows; ++row) {
    std::memcpy(out + 2 * row, &blocks[row].half_scale, 2);
    if (!format.has_offset) continue;
    std::memcpy(out + TileFormat::kHalfVectorBytes + 2 * row, &blocks[row].half_offset, 2);
  }
}

}  // namespace

void ReadWeightBlock(DType dtype, const std::byte* row, int64_t index, WeightBlock& block) {
  const int64_t per_super_block = BlockElements(dtype) / kBlockColumns;
  const std::byte* data = row + index / per_super_block * BlockBytes(dtype);
  const auto sub = static_cast<int>(index % per_super_block);
  switch (dtype) {
    case DType::kQ4_0:
      block.half_scale = HalfAt(data);
      return ReadNibbles(data + 2, block);
    case DType::kQ4_1:
      block.half_scale = HalfAt(data);
      block.half_offset = HalfAt(data + 2);
      return ReadNibbles(data + 4, block);
    case DType::kQ5_0:
      block.half_scale = HalfAt(data);
      ReadNibbles(data + 6, block);
      return AddFifthBits(data + 2, block);
    case DType::kQ5_1:
      block.half_scale = HalfAt(data);
      block.half_offset = HalfAt(data + 2);
      ReadNibbles(data + 8, block);
      return AddFifthBits(data + 4, block);
    case DType::kQ8_0:
      block.half_scale = HalfAt(data);
      for (int i = 0; i < kBlockColumns; ++i) block.codes[i] = Byte(data, 2 + i) ^ 0x80;
      return;
    case DType::kQ2_K:
      return ReadQ2K(data, sub, block);
    case DType::kQ3_K:
      return ReadQ3K(data, sub, block);
    case DType::kQ4_K:
      ReadScaleMinimum(data, sub, block);
      return ReadSharedNibbles(data + 16, sub, block);
    case DType::kQ5_K:
      return ReadQ5K(data, sub, block);
    case DType::kQ6_K:
      return ReadQ6K(data, sub, block);
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
      return;  // have no blocks
  }
}

void WriteTileBlock(DType dtype, const WeightBlock (&blocks)[kTileRows], std::byte* out) {
  const TileFormat format = TileFormatOf(dtype);
  std::byte* scales = out + format.code_bytes();
  for (int row = 0; row < kTileRows; ++row) WriteCodes(format.code_bits, blocks[row], row, out);
  if (!format.super_blocks) return WriteHalves(format, blocks, scales);
  for (int half = 0; half < format.scales_per_block; ++half) {
    for (int row = 0; row < kTileRows; ++row) {
      const int8_t scale = blocks[row].scale_factor[half];
      const int8_t offset = blocks[row].offset_factor[half];
      if (format.nibble_factors) {
        scales[row] = static_cast<std::byte>(scale | offset << 4);
      } else {
        scales[row] = static_cast<std::byte>(scale);
        if (format.has_offset) scales[kTileRows + row] = static_cast<std::byte>(offset);
      }
    }
    scales += format.factor_bytes();
  }
}

void WriteTileHeader(DType dtype, const WeightBlock (&blocks)[kTileRows], std::byte* out) {
  WriteHalves(TileFormatOf(dtype), blocks, out);
}

void PackTileByRows(DType dtype, const TileRows& rows, int64_t first_block, int64_t blocks,
                    std::byte* tile) {
  const TileFormat format = TileFormatOf(dtype);
  WeightBlock rows_of_block[kTileRows];
  for (int64_t block = first_block; block < first_block + blocks; ++block) {
    for (int r = 0; r < kTileRows; ++r) {
      if (rows[r] != nullptr) ReadWeightBlock(dtype, rows[r], block, rows_of_block[r]);
    }
    if (format.super_blocks && (block == first_block || block % kSuperBlocks == 0)) {
      WriteTileHeader(dtype, rows_of_block, tile);
      tile += format.header_bytes();
    }
    WriteTileBlock(dtype, rows_of_block, tile);
    tile += format.block_bytes();
  }
}

}  // namespace tandem::core
