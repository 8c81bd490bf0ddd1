#include "core/cuda/fragment_packer.h"

#include <cstring>

#include "core/cuda/kernels/fragment_format.h"

namespace tandem::core {
namespace {

constexpr int kRowPairs = kTileRows / 2;
constexpr int64_t kVectorBytes = 64;

template <typename T>
T Load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(value));
  return value;
}

void StoreWord(uint32_t word, std::byte* at) { std::memcpy(at, &word, sizeof(word)); }

/// Word i of a lane's fragment: four codes of `kBits`, a byte each, with their zero point.
template <int kBits>
uint32_t WordOf(const std::byte* block, int row, int four, int i) {
  const std::byte* const lane = block + 4 * (row + i % 2 * kRowPairs);
  const int half = i / 2;
  const auto vector = [lane](int index) { return Load<uint32_t>(lane + kVectorBytes * index); };
  if constexpr (kBits == 8) return vector(4 * half + four);
  uint32_t codes = 0;
  if constexpr (kBits >= 4) codes = vector(four) >> (4 * half) & 0x0f0f0f0f;
  constexpr int kPairs = kBits >= 4 ? 4 : 0;
  if constexpr (kBits == 2 || kBits == 3 || kBits == 6) {
    codes |= (vector(kPairs + half) >> (2 * four) & 0x03030303) << kPairs;
  }
  constexpr int kSingles = kPairs + (kBits == 3 ? 2 : 0);
  if constexpr (kBits == 3 || kBits == 5) {
    codes |= (vector(kSingles) >> (4 * half + four) & 0x01010101) << (kBits - 1);
  }
  return codes;
}

/// Adds a block's codes to its unit's planes. zero_point: of four codes.
template <int kBits>
void AddCodes(const std::byte* block, int in_unit, uint32_t zero_point, std::byte* unit) {
  for (int lane = 0; lane < kLanes; ++lane) {
    uint32_t words[4];
    for (int i = 0; i < 4; ++i) {
      words[i] = WordOf<kBits>(block, lane / 4, lane % 4, i) ^ zero_point;
    }
    std::byte* plane = unit;
    if constexpr (kBits == 8) {
      std::memcpy(plane + 16 * (kLanes * in_unit + lane), words, sizeof(words));
      continue;
    }
    if constexpr (kBits >= 4) {
      for (int i = 0; i < 2; ++i) {
        StoreWord((words[i] & 0x0f0f0f0f) | (words[i + 2] & 0x0f0f0f0f) << 4,
                  plane + 16 * lane + 4 * (2 * in_unit + i));
      }
      plane += 16 * kLanes;
    }
    if constexpr (kBits == 2 || kBits == 3 || kBits == 6) {
      uint32_t pairs = 0;
      for (int i = 0; i < 4; ++i) {
        pairs |= (words[i] >> (kBits >= 4 ? 4 : 0) & 0x03030303) << (2 * i);
      }
      StoreWord(pairs, plane + 8 * lane + 4 * in_unit);
      plane += 8 * kLanes;
    }
    if constexpr (kBits == 3 || kBits == 5) {
      auto bits = Load<uint32_t>(plane + 4 * lane);
      for (int i = 0; i < 4; ++i) {
        bits |= (words[i] >> (kBits - 1) & 0x01010101) << (4 * in_unit + i);
      }
      StoreWord(bits, plane + 4 * lane);
    }
  }
}

uint32_t TwoHalves(const std::byte* halves, int row) {
  return Load<uint16_t>(halves + 2 * row) | uint32_t{Load<uint16_t>(halves + 2 * (row + kRowPairs))}
                                                << 16;
}

uint32_t TwoBytes(const std::byte* bytes, int row) {
  return static_cast<uint32_t>(bytes[row]) | static_cast<uint32_t>(bytes[row + kRowPairs]) << 8;
}

/// from: the scales of a block; unit_scales: those of its unit.
void AddScales(const FragmentFormat& format, const std::byte* from, int in_unit,
               std::byte* unit_scales) {
  const TileFormat& tile = format.tile;
  for (int row = 0; row < kRowPairs; ++row) {
    std::byte* const to = unit_scales + 4 * format.scale_words() * (kUnitBlocks * row + in_unit);
    if (!tile.super_blocks) {
      StoreWord(TwoHalves(from, row), to);
      if (tile.has_offset) StoreWord(TwoHalves(from + TileFormat::kHalfVectorBytes, row), to + 4);
    } else {
      // Of the second half of the columns, or of the offsets: what comes next.
      StoreWord(TwoBytes(from, row) | TwoBytes(from + kTileRows, row) << 16, to);
    }
  }
}

template <int kBits>
void Pack(const FragmentFormat& format, const std::byte* tile, int64_t first_block, int64_t blocks,
          std::byte* out) {
  const int64_t units = FragmentFormat::units(first_block, blocks);
  std::memset(out, 0, static_cast<size_t>(format.tile_bytes(first_block, blocks)));
  const auto zero_point = static_cast<uint32_t>(format.tile.zero_point) * 0x01010101U;
  int64_t block = -(first_block % kUnitBlocks);  // negative: of no tile
  for (int64_t unit = 0; unit < units; ++unit) {
    const int64_t in_super = (first_block / kUnitBlocks + unit) % kSuperUnits;
    if (format.tile.super_blocks && (unit == 0 || in_super == 0)) {
      for (int row = 0; row < kRowPairs; ++row) {
        StoreWord(TwoHalves(tile, row), out + 4 * row);
        if (!format.tile.has_offset) continue;
        StoreWord(TwoHalves(tile + TileFormat::kHalfVectorBytes, row),
                  out + TileFormat::kHalfVectorBytes + 4 * row);
      }
      tile += format.header_bytes();
      out += format.header_bytes();
    }
    for (int in_unit = 0; in_unit < kUnitBlocks; ++in_unit, ++block) {
      if (block < 0 || block >= blocks) continue;
      AddCodes<kBits>(tile, in_unit, zero_point, out);
      AddScales(format, tile + format.tile.code_bytes(), in_unit, out + format.code_bytes());
      tile += format.tile.block_bytes();
    }
    out += format.unit_bytes();
  }
}

}  // namespace

void PackFragments(DType dtype, const std::byte* tile, int64_t first_block, int64_t blocks,
                   std::byte* out) {
  const FragmentFormat format = FragmentFormatOf(dtype);
  switch (format.tile.code_bits) {
    case 2:
      return Pack<2>(format, tile, first_block, blocks, out);
    case 3:
      return Pack<3>(format, tile, first_block, blocks, out);
    case 4:
      return Pack<4>(format, tile, first_block, blocks, out);
    case 5:
      return Pack<5>(format, tile, first_block, blocks, out);
    case 6:
      return Pack<6>(format, tile, first_block, blocks, out);
    default:
      return Pack<8>(format, tile, first_block, blocks, out);
  }
}

int64_t BytesOnGpu(DType dtype, int64_t rows, Range columns, ActivationMode mode) {
  if (!TileFormatOf(dtype).quantized() || mode == ActivationMode::kF32) {
    return PackedMatrix::BytesOf(dtype, rows, columns, mode);
  }
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  const int64_t blocks = (columns.count + kBlockColumns - 1) / kBlockColumns;
  return tiles *
         FragmentFormatOf(dtype).tile_bytes(columns.begin / kBlockColumns % kSuperBlocks, blocks);
}

}  // namespace tandem::core
