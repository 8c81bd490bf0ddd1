#include "core/cpu/linear/tile_packer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "tests/core/cpu/linear/weight_samples.h"

namespace tandem::core {
namespace {

int64_t TileBytes(const TileFormat& format, int64_t first_block, int64_t blocks) {
  return blocks * format.block_bytes() +
         format.headers(first_block, blocks) * format.header_bytes();
}

/// 16 rows of random bytes: any bytes are codes and scales, and all have to arrive.
struct RandomRows {
  RandomRows(DType dtype, int64_t columns, uint32_t seed)
      : row_bytes(RowBytes(dtype, columns)),
        bytes(std::make_unique<std::byte[]>(static_cast<size_t>(kTileRows * row_bytes))) {
    std::mt19937 random(seed);
    for (int64_t i = 0; i < kTileRows * row_bytes; ++i) {
      bytes[static_cast<size_t>(i)] = static_cast<std::byte>(random());
    }
    for (int r = 0; r < kTileRows; ++r) rows[r] = bytes.get() + r * row_bytes;
  }

  int64_t row_bytes;
  std::unique_ptr<std::byte[]> bytes;  // exact, so that a sanitizer sees a byte too many
  TileRows rows = {};
};

class TilePacker : public ::testing::TestWithParam<DType> {};

INSTANTIATE_TEST_SUITE_P(All, TilePacker, ::testing::ValuesIn(kAllDTypes), DTypeParamName);

TEST_P(TilePacker, WholeTilesHaveTheBytesOfTheSlowWay) {
  const DType dtype = GetParam();
  const TileFormat format = TileFormatOf(dtype);
  if (!format.quantized()) return;
  const RandomRows source(dtype, 768, 1);
  const bool has_fast_way = dtype != DType::kQ2_K && dtype != DType::kQ3_K;
  for (int64_t first = 0; first < 24; ++first) {
    for (int64_t blocks = 1; blocks <= 24 - first; ++blocks) {
      const auto size = static_cast<size_t>(TileBytes(format, first, blocks));
      std::vector<std::byte> slow(size);
      std::vector<std::byte> fast(size);
      PackTileByRows(dtype, source.rows, first, blocks, slow.data());
      ASSERT_EQ(PackWholeTile(dtype, source.rows, first, blocks, fast.data()), has_fast_way);
      if (!has_fast_way) return;
      ASSERT_EQ(std::memcmp(slow.data(), fast.data(), size), 0)
          << "blocks " << first << " +" << blocks;
    }
  }
}

TEST_P(TilePacker, ElementsStandByColumns) {
  const int64_t size = TileFormatOf(GetParam()).element_bytes;
  if (size == 0) return;
  for (const int64_t columns : {1, 7, 8, 9, 31, 32, 100}) {
    const RandomRows source(GetParam(), columns, 2);
    std::vector<std::byte> tile(static_cast<size_t>(kTileRows * columns * size));
    (size == 4 ? PackWholeTile32 : PackWholeTile16)(source.rows, columns, tile.data());
    for (int64_t column = 0; column < columns; ++column) {
      for (int r = 0; r < kTileRows; ++r) {
        ASSERT_EQ(std::memcmp(tile.data() + (column * kTileRows + r) * size,
                              source.rows[r] + column * size, static_cast<size_t>(size)),
                  0)
            << "row " << r << " column " << column << " of " << columns;
      }
    }
  }
}

TEST_P(TilePacker, MissingRowsAreZeros) {
  const DType dtype = GetParam();
  const TileFormat format = TileFormatOf(dtype);
  if (!format.quantized()) return;
  RandomRows source(dtype, 512, 3);
  RandomRows padded(dtype, 512, 3);
  for (int r = 5; r < kTileRows; ++r) source.rows[r] = nullptr;
  const auto size = static_cast<size_t>(TileBytes(format, 3, 10));
  std::vector<std::byte> some(size);
  std::vector<std::byte> all(size);
  PackTileByRows(dtype, source.rows, 3, 10, some.data());
  PackTileByRows(dtype, padded.rows, 3, 10, all.data());
  // The first block's codes of rows that are there, and of those that are not.
  const auto codes = static_cast<size_t>(format.header_bytes());
  EXPECT_EQ(std::memcmp(some.data() + codes, all.data() + codes, 5 * 4), 0);
  for (size_t i = 5 * 4; i < 64; ++i) EXPECT_EQ(some[codes + i], std::byte{0});
}

}  // namespace
}  // namespace tandem::core
