#include "core/cuda/fragment_packer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "core/cpu/linear/tile_packer.h"
#include "core/cuda/kernels/fragment_format.h"
#include "tests/core/cpu/linear/weight_samples.h"

namespace tandem::core {
namespace {

/// Reads one weight of a tile of fragments, as fragment_format.h says, bit by bit.
class FragmentTile {
 public:
  FragmentTile(DType dtype, std::vector<std::byte> bytes, int64_t first_block)
      : format_(FragmentFormatOf(dtype)), bytes_(std::move(bytes)), first_block_(first_block) {}

  /// With its zero point, as WeightBlock has it.
  int Code(int row, int64_t block, int column) const {
    const int64_t unit = UnitAt(block);
    const int in_unit = InUnit(block);
    const int lane = row % 8 * 4 + column % 16 / 4;
    const int word = row / 8 + column / 16 * 2;
    const int byte = column % 4;
    const int bits = format_.tile.code_bits;
    int code = 0;
    if (bits == 8) {
      code = Byte(unit + 512 * in_unit + 16 * lane + 4 * word + byte);
    } else {
      int64_t plane = unit;
      int have = 0;
      if (bits >= 4) {
        code = Byte(plane + 16 * lane + 4 * (2 * in_unit + word % 2) + byte) >> (word / 2 * 4) & 15;
        plane += 512;
        have = 4;
      }
      if (bits % 4 == 2 || bits == 3) {
        code |= (Byte(plane + 8 * lane + 4 * in_unit + byte) >> (2 * word) & 3) << have;
        plane += 256;
        have += 2;
      }
      if (bits % 2 == 1) {
        code |= (Byte(plane + 4 * lane + byte) >> (4 * in_unit + word) & 1) << have;
      }
    }
    return code ^ format_.tile.zero_point;
  }

  uint16_t Scale(int row, int64_t block) const {
    return format_.tile.super_blocks ? Half(HeaderAt(block) + 4 * (row % 8) + row / 8 * 2)
                                     : Half(ScalesAt(row, block) + row / 8 * 2);
  }
  uint16_t Offset(int row, int64_t block) const {
    return format_.tile.super_blocks ? Half(HeaderAt(block) + 32 + 4 * (row % 8) + row / 8 * 2)
                                     : Half(ScalesAt(row, block) + 4 + row / 8 * 2);
  }
  /// The factor `index` of a row: of scales or offsets, or of the halves.
  int8_t Factor(int row, int64_t block, int index) const {
    return static_cast<int8_t>(Byte(ScalesAt(row, block) + 2 * index + row / 8));
  }

 private:
  int Byte(int64_t at) const { return static_cast<int>(bytes_.at(static_cast<size_t>(at))); }
  uint16_t Half(int64_t at) const { return static_cast<uint16_t>(Byte(at) | Byte(at + 1) << 8); }
  int InUnit(int64_t block) const { return static_cast<int>((block + first_block_) % 2); }
  int64_t Super(int64_t block) const { return (block + first_block_) / 8; }
  int64_t UnitAt(int64_t block) const {
    const int64_t unit = (block + first_block_) / 2 - first_block_ / 2;
    return unit * format_.unit_bytes() + (Super(block) + 1) * format_.header_bytes();
  }
  int64_t HeaderAt(int64_t block) const {
    const int64_t super = Super(block);
    return super == 0 ? 0 : UnitAt(8 * super - first_block_) - format_.header_bytes();
  }
  int64_t ScalesAt(int row, int64_t block) const {
    return UnitAt(block) + format_.code_bytes() +
           4 * format_.scale_words() * (2 * (row % 8) + InUnit(block));
  }

  const FragmentFormat format_;
  const std::vector<std::byte> bytes_;
  const int64_t first_block_;
};

class FragmentPacker : public ::testing::TestWithParam<DType> {};

TEST_P(FragmentPacker, PutsEachWeightWhereItsLaneReadsIt) {
  const DType dtype = GetParam();
  const TileFormat format = TileFormatOf(dtype);
  const WeightSample w = MakeWeights(dtype, kTileRows, 1024, 51);
  const MatrixSource source = w.source();
  TileRows rows;
  for (int r = 0; r < kTileRows; ++r) rows[r] = source.data + r * RowBytes(dtype, 1024);
  for (const int64_t first : {0, 3, 6, 7}) {
    for (const int64_t blocks : {1, 2, 5, 8, 25}) {
      std::vector<std::byte> tile(static_cast<size_t>(
          blocks * format.block_bytes() + format.headers(first, blocks) * format.header_bytes()));
      PackTileByRows(dtype, rows, first, blocks, tile.data());
      const int64_t bytes = FragmentFormatOf(dtype).tile_bytes(first, blocks);
      EXPECT_EQ(BytesOnGpu(dtype, 20, {32 * first, 32 * blocks}, ActivationMode::kQ8), 2 * bytes);
      std::vector<std::byte> packed(static_cast<size_t>(bytes), std::byte{0xff});
      PackFragments(dtype, tile.data(), first, blocks, packed.data());
      const FragmentTile found(dtype, packed, first);
      for (int64_t b = 0; b < blocks; ++b) {
        for (int row = 0; row < kTileRows; ++row) {
          WeightBlock expected;
          ReadWeightBlock(dtype, rows[row], first + b, expected);
          for (int c = 0; c < kBlockColumns; ++c) {
            ASSERT_EQ(found.Code(row, b, c), expected.codes[c]) << first << " " << b << " " << c;
          }
          ASSERT_EQ(found.Scale(row, b), expected.half_scale);
          if (format.has_offset) {
            ASSERT_EQ(found.Offset(row, b), expected.half_offset);
          }
          if (!format.super_blocks) continue;
          if (format.nibble_factors) {
            for (int half = 0; half < 2; ++half) {
              ASSERT_EQ(found.Factor(row, b, half),
                        static_cast<int8_t>(expected.scale_factor[half] |
                                            expected.offset_factor[half] << 4));
            }
          } else {
            ASSERT_EQ(found.Factor(row, b, 0), expected.scale_factor[0]);
            ASSERT_EQ(found.Factor(row, b, 1),
                      format.has_offset ? expected.offset_factor[0] : expected.scale_factor[1]);
          }
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, FragmentPacker,
                         ::testing::Values(DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1,
                                           DType::kQ8_0, DType::kQ2_K, DType::kQ3_K, DType::kQ4_K,
                                           DType::kQ5_K, DType::kQ6_K),
                         [](const auto& of) { return std::string(DTypeName(of.param)); });

TEST(FragmentBytes, AreThoseOfTheCpuWhereUnitsAreWhole) {
  for (const DType dtype : kAllDTypes) {
    EXPECT_EQ(BytesOnGpu(dtype, 40, {256, 512}, ActivationMode::kQ8),
              PackedMatrix::BytesOf(dtype, 40, {256, 512}, ActivationMode::kQ8));
    EXPECT_EQ(BytesOnGpu(dtype, 40, {96, 160}, ActivationMode::kF32),
              PackedMatrix::BytesOf(dtype, 40, {96, 160}, ActivationMode::kF32));
  }
}

}  // namespace
}  // namespace tandem::core
