#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/cpu/linear/tile_packer.h"
#include "core/cpu/simd/row_transpose.h"

/// The packing of tile_packer.cpp for whole tiles, eight rows at a time: the file's bytes are
/// turned so that a lane holds four of a row (row_transpose.h), and the rest happens within lanes,
/// as tile_format.h says it.
namespace tandem::core {
namespace {

constexpr int kLanes = 8;
constexpr int64_t kNibblePlane = 256;

using Lanes = __m256i;
using Rows = const std::byte* const*;  // eight rows

Lanes And(Lanes v, uint32_t mask) {
  return _mm256_and_si256(v, _mm256_set1_epi32(static_cast<int>(mask)));
}
Lanes Or(Lanes v, Lanes w) { return _mm256_or_si256(v, w); }
Lanes Right(Lanes v, int bits) { return _mm256_srli_epi32(v, bits); }
Lanes Left(Lanes v, int bits) { return _mm256_slli_epi32(v, bits); }

/// Where eight rows lie in a tile: the lower or the upper half of every vector.
struct Half {
  int upper = 0;  // 0 or 1

  void PutCodes(std::byte* plane, int vector, Lanes codes) const {
    _mm256_storeu_si256(reinterpret_cast<Lanes*>(plane + 64 * vector + 32 * upper), codes);
  }
  void PutHalves(std::byte* vector, Lanes halves) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(vector + 16 * upper), HalvesOfLanes(halves));
  }
  /// Two bytes at `offset` of each row.
  void CopyHalves(std::byte* vector, Rows rows, int64_t offset) const {
    for (int r = 0; r < kLanes; ++r) {
      std::memcpy(vector + 2 * (kLanes * upper + r), rows[r] + offset, 2);
    }
  }
  /// Byte `index` of every lane of which `bytes` are BytesOfLanes.
  void PutBytes(std::byte* vector, Lanes bytes, int index) const {
    alignas(32) std::byte all[32];
    _mm256_store_si256(reinterpret_cast<Lanes*>(all), bytes);
    std::memcpy(vector + kLanes * upper, all + 4 * index, 4);
    std::memcpy(vector + kLanes * upper + 4, all + 16 + 4 * index, 4);
  }
};

/// The nibble plane from 8 pieces with a nibble in each byte: half 0 in the low bits, 1 in the
/// high.
void PutNibbles(const Lanes (&pieces)[8], int shift, const Half& half, std::byte* plane) {
  for (int group = 0; group < 4; ++group) {
    const Lanes low = And(Right(pieces[group], shift), 0x0f0f0f0f);
    const Lanes high = And(Right(pieces[4 + group], shift), 0x0f0f0f0f);
    half.PutCodes(plane, group, Or(low, Left(high, 4)));
  }
}

/// The plane of single bits from 8 pieces: bit `bit` of each byte.
void PutSingles(const Lanes (&pieces)[8], int bit, const Half& half, std::byte* plane) {
  Lanes singles = _mm256_setzero_si256();
  for (int i = 0; i < 8; ++i) {
    singles = Or(singles, Left(And(Right(pieces[i], bit), 0x01010101), i));
  }
  half.PutCodes(plane, 0, singles);
}

/// The plane of pairs from 8 pieces: bits `bit` and `bit` + 1 of each byte.
void PutPairs(const Lanes (&pieces)[8], int bit, const Half& half, std::byte* plane) {
  for (int h = 0; h < 2; ++h) {
    Lanes pairs = _mm256_setzero_si256();
    for (int group = 0; group < 4; ++group) {
      pairs = Or(pairs, Left(And(Right(pieces[4 * h + group], bit), 0x03030303), 2 * group));
    }
    half.PutCodes(plane, h, pairs);
  }
}

/// The plane of single bits from the fifth bits of Q5_0 and Q5_1: bit 16 h + 4 j + k of a lane goes
/// to bit 8 k + 4 h + j.
Lanes SpreadFifthBits(Rows rows, int64_t offset) {
  alignas(32) uint32_t spread[kLanes];
  for (int r = 0; r < kLanes; ++r) {
    uint32_t bits;
    std::memcpy(&bits, rows[r] + offset, sizeof(bits));
    uint32_t lane = 0;
    for (unsigned k = 0; k < 4; ++k) lane |= _pext_u32(bits, 0x11111111U << k) << (8 * k);
    spread[r] = lane;
  }
  return _mm256_load_si256(reinterpret_cast<const Lanes*>(spread));
}

/// Q4_0 to Q5_1: float16 scale, float16 offset if any, fifth bits if any, 16 bytes of nibbles whose
/// low and high bits are the columns as tile_format.h wants them.
template <DType kDtype>
void PackNibbleBlock(Rows rows, int64_t at, const Half& half, std::byte* out) {
  constexpr TileFormat kFormat = TileFormatOf(kDtype);
  constexpr int64_t kFifthAt = kFormat.has_offset ? 4 : 2;
  constexpr int64_t kNibblesAt = kFifthAt + (kFormat.code_bits == 5 ? 4 : 0);
  Lanes pieces[4];
  LoadPieces(rows, at + kNibblesAt, pieces);
  for (int group = 0; group < 4; ++group) half.PutCodes(out, group, pieces[group]);
  if constexpr (kFormat.code_bits == 5) {
    half.PutCodes(out + kNibblePlane, 0, SpreadFifthBits(rows, at + kFifthAt));
  }
  std::byte* scales = out + kFormat.code_bytes();
  half.CopyHalves(scales, rows, at);
  if constexpr (kFormat.has_offset) {
    half.CopyHalves(scales + TileFormat::kHalfVectorBytes, rows, at + 2);
  }
}

void PackQ8Block(Rows rows, int64_t at, const Half& half, std::byte* out) {
  Lanes pieces[8];
  LoadPieces(rows, at + 2, pieces);
  for (int i = 0; i < 8; ++i) {
    half.PutCodes(out, i, _mm256_xor_si256(pieces[i], _mm256_set1_epi8(-128)));
  }
  half.CopyHalves(out + TileFormatOf(DType::kQ8_0).code_bytes(), rows, at);
}

/// Which blocks of a super-block are wanted, and where they go.
struct SuperBlock {
  int begin = 0;
  int end = 0;
  std::byte* header = nullptr;
  int64_t block_bytes = 0;

  bool Has(int sub) const { return sub >= begin && sub < end; }
  std::byte* block(int sub, int64_t header_bytes) const {
    return header + header_bytes + (sub - begin) * block_bytes;
  }
};

/// Q4_K and Q5_K.
template <DType kDtype>
void PackQ45K(Rows rows, int64_t at, const Half& half, const SuperBlock& wanted) {
  constexpr TileFormat kFormat = TileFormatOf(kDtype);
  constexpr bool kFive = kFormat.code_bits == 5;
  Lanes head[4];  // d and dmin; 12 bytes of scales
  LoadPieces(rows, at, head);
  half.PutHalves(wanted.header, head[0]);
  half.PutHalves(wanted.header + TileFormat::kHalfVectorBytes,
                 Right(_mm256_xor_si256(head[0], _mm256_set1_epi32(INT32_MIN)), 16));
  // Byte q of a lane is block q, or block 4 + q.
  const Lanes scales[2] = {
      BytesOfLanes(And(head[1], 0x3f3f3f3f)),
      BytesOfLanes(Or(And(head[3], 0x0f0f0f0f), And(Right(head[1], 2), 0x30303030)))};
  const Lanes minima[2] = {
      BytesOfLanes(And(head[2], 0x3f3f3f3f)),
      BytesOfLanes(Or(And(Right(head[3], 4), 0x0f0f0f0f), And(Right(head[2], 2), 0x30303030)))};
  Lanes fifth[8];
  if constexpr (kFive) LoadPieces(rows, at + 16, fifth);
  for (int pair = wanted.begin / 2; pair < (wanted.end + 1) / 2; ++pair) {
    Lanes nibbles[8];
    LoadPieces(rows, at + (kFive ? 48 : 16) + kBlockColumns * pair, nibbles);
    for (int sub = 2 * pair; sub < 2 * pair + 2; ++sub) {
      if (!wanted.Has(sub)) continue;
      std::byte* out = wanted.block(sub, kFormat.header_bytes());
      PutNibbles(nibbles, sub % 2 * 4, half, out);
      if constexpr (kFive) PutSingles(fifth, sub, half, out + kNibblePlane);
      half.PutBytes(out + kFormat.code_bytes(), scales[sub / 4], sub % 4);
      half.PutBytes(out + kFormat.code_bytes() + kTileRows, minima[sub / 4], sub % 4);
    }
  }
}

void PackQ6K(Rows rows, int64_t at, const Half& half, const SuperBlock& wanted) {
  constexpr TileFormat kFormat = TileFormatOf(DType::kQ6_K);
  half.CopyHalves(wanted.header, rows, at + 208);
  Lanes scales[4];  // byte q of piece p is the scale of the columns from 16 * (4 * p + q) on
  LoadPieces(rows, at + 192, scales);
  for (Lanes& piece : scales) piece = BytesOfLanes(piece);
  for (int part = wanted.begin / 4; part < (wanted.end + 3) / 4; ++part) {
    Lanes low[2][8];
    Lanes high[8];
    LoadPieces(rows, at + 64 * part, low[0]);
    LoadPieces(rows, at + 64 * part + kBlockColumns, low[1]);
    LoadPieces(rows, at + 128 + kBlockColumns * part, high);
    for (int quarter = 0; quarter < 4; ++quarter) {
      const int sub = 4 * part + quarter;
      if (!wanted.Has(sub)) continue;
      std::byte* out = wanted.block(sub, kFormat.header_bytes());
      PutNibbles(low[quarter % 2], quarter / 2 * 4, half, out);
      PutPairs(high, 2 * quarter, half, out + kNibblePlane);
      for (int h = 0; h < 2; ++h) {
        half.PutBytes(out + kFormat.code_bytes() + h * kFormat.factor_bytes(), scales[sub / 2],
                      2 * (sub % 2) + h);
      }
    }
  }
}

using PackBlock = void (*)(Rows rows, int64_t at, const Half& half, std::byte* out);
using PackSuperBlock = void (*)(Rows rows, int64_t at, const Half& half, const SuperBlock& wanted);

void PackBlocks(DType dtype, Rows rows, int64_t first, int64_t blocks, PackBlock pack,
                std::byte* tile) {
  const int64_t block_bytes = TileFormatOf(dtype).block_bytes();
  for (int64_t b = 0; b < blocks; ++b) {
    for (int upper = 0; upper < 2; ++upper) {
      pack(rows + kLanes * upper, (first + b) * BlockBytes(dtype), {upper}, tile + b * block_bytes);
    }
  }
}

void PackSuperBlocks(DType dtype, Rows rows, int64_t first, int64_t blocks, PackSuperBlock pack,
                     std::byte* tile) {
  const TileFormat format = TileFormatOf(dtype);
  const int64_t end = first + blocks;
  for (int64_t block = first; block < end;) {
    const int64_t super = block / kSuperBlocks;
    SuperBlock wanted;
    wanted.begin = static_cast<int>(block % kSuperBlocks);
    wanted.end = static_cast<int>(std::min<int64_t>(end - super * kSuperBlocks, kSuperBlocks));
    wanted.header = tile;
    wanted.block_bytes = format.block_bytes();
    for (int upper = 0; upper < 2; ++upper) {
      pack(rows + kLanes * upper, super * BlockBytes(dtype), {upper}, wanted);
    }
    tile += format.header_bytes() + (wanted.end - wanted.begin) * format.block_bytes();
    block = super * kSuperBlocks + wanted.end;
  }
}

}  // namespace

bool PackWholeTile(DType dtype, const TileRows& rows, int64_t first_block, int64_t blocks,
                   std::byte* tile) {
  switch (dtype) {
    case DType::kQ4_0:
      PackBlocks(dtype, rows, first_block, blocks, PackNibbleBlock<DType::kQ4_0>, tile);
      return true;
    case DType::kQ4_1:
      PackBlocks(dtype, rows, first_block, blocks, PackNibbleBlock<DType::kQ4_1>, tile);
      return true;
    case DType::kQ5_0:
      PackBlocks(dtype, rows, first_block, blocks, PackNibbleBlock<DType::kQ5_0>, tile);
      return true;
    case DType::kQ5_1:
      PackBlocks(dtype, rows, first_block, blocks, PackNibbleBlock<DType::kQ5_1>, tile);
      return true;
    case DType::kQ8_0:
      PackBlocks(dtype, rows, first_block, blocks, PackQ8Block, tile);
      return true;
    case DType::kQ4_K:
      PackSuperBlocks(dtype, rows, first_block, blocks, PackQ45K<DType::kQ4_K>, tile);
      return true;
    case DType::kQ5_K:
      PackSuperBlocks(dtype, rows, first_block, blocks, PackQ45K<DType::kQ5_K>, tile);
      return true;
    case DType::kQ6_K:
      PackSuperBlocks(dtype, rows, first_block, blocks, PackQ6K, tile);
      return true;
    default:
      return false;
  }
}

void PackWholeTile32(const TileRows& rows, int64_t columns, std::byte* tile) {
  for (int64_t column = 0; column + 8 <= columns; column += 8) {
    for (int upper = 0; upper < 2; ++upper) {
      Lanes pieces[8];
      LoadPieces(rows + kLanes * upper, 4 * column, pieces);
      for (int i = 0; i < 8; ++i) Half{upper}.PutCodes(tile + 64 * column, i, pieces[i]);
    }
  }
  for (int64_t column = columns / 8 * 8; column < columns; ++column) {
    for (int r = 0; r < kTileRows; ++r) {
      std::memcpy(tile + 4 * (kTileRows * column + r), rows[r] + 4 * column, 4);
    }
  }
}

void PackWholeTile16(const TileRows& rows, int64_t columns, std::byte* tile) {
  for (int64_t column = 0; column + 8 <= columns; column += 8) {
    for (int upper = 0; upper < 2; ++upper) {
      __m128i pieces[8];
      for (int r = 0; r < kLanes; ++r) {
        pieces[r] = _mm_loadu_si128(
            reinterpret_cast<const __m128i*>(rows[kLanes * upper + r] + 2 * column));
      }
      Transpose8x8(pieces);
      for (int i = 0; i < 8; ++i) {
        _mm_storeu_si128(
            reinterpret_cast<__m128i*>(tile + 2 * kTileRows * (column + i) + 2 * kLanes * upper),
            pieces[i]);
      }
    }
  }
  for (int64_t column = columns / 8 * 8; column < columns; ++column) {
    for (int r = 0; r < kTileRows; ++r) {
      std::memcpy(tile + 2 * (kTileRows * column + r), rows[r] + 2 * column, 2);
    }
  }
}

}  // namespace tandem::core
