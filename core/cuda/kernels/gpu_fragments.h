#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "core/cuda/kernels/device_code.h"
#include "core/cuda/kernels/fragment_format.h"

/// How kernels read weights in the order of fragments (fragment_format.h).
namespace tandem::core {

/// The sizes of a type's units, as constants: kernels cannot call the functions of FragmentFormat.
template <DType kDtype>
struct FragmentsOf {
  static constexpr FragmentFormat kFormat = FragmentFormatOf(kDtype);
  static constexpr TileFormat kTile = kFormat.tile;
  static constexpr int kBits = kTile.code_bits;
  static constexpr bool kNibbles = kBits == 4 || kBits == 5 || kBits == 6;
  static constexpr bool kPairs = kBits == 2 || kBits == 3 || kBits == 6;
  static constexpr bool kSingles = kBits == 3 || kBits == 5;
  static constexpr int kVectors = kBits == 8 ? 2 : kNibbles ? 1 : 0;  // of 16 bytes a lane
  static constexpr int kPairsAt = 16 * kLanes * kVectors;
  static constexpr int kSinglesAt = kPairsAt + (kPairs ? 8 * kLanes : 0);
  static constexpr int kScalesAt = static_cast<int>(kFormat.code_bytes());
  static constexpr int kScaleWords = kFormat.scale_words();
  static constexpr int kUnitBytes = static_cast<int>(kFormat.unit_bytes());
  static constexpr int kHeaderBytes = static_cast<int>(kFormat.header_bytes());
  static constexpr int kSteps = kTile.scales_per_block;
  // Codes with a sign stand in the upper bits of their bytes, and so have it there: as products
  // see them they are 2^kShift times as large.
  static constexpr int kShift = kTile.zero_point != 0 ? 8 - kBits : 0;
};

/// Units of a tile, counted from its first one.
struct UnitPlace {
  int first_unit;  // of the tile, in its super-block
  int odd;         // 1: the tile's first unit has one block, its second

  __device__ explicit UnitPlace(int64_t first_block)
      : first_unit(static_cast<int>(first_block) / kUnitBlocks),
        odd(static_cast<int>(first_block) % kUnitBlocks) {}
  __device__ int UnitOf(int block) const { return (block + odd) / kUnitBlocks; }
  __device__ int FirstBlockOf(int unit) const { return kUnitBlocks * unit - odd; }
  __device__ int SuperOf(int unit) const { return (unit + first_unit) / kSuperUnits; }
  /// Of the units of a super-block.
  __device__ int FirstUnitOf(int super) const {
    return super == 0 ? 0 : super * kSuperUnits - first_unit;
  }
  /// Where a super-block begins in the tile, with its header if the type has any. Tiles are below
  /// 2^31 bytes (core/cuda/gpu_limits.h).
  template <DType kDtype>
  __device__ int SuperAt(int super) const {
    using Of = FragmentsOf<kDtype>;
    return FirstUnitOf(super) * Of::kUnitBytes + super * Of::kHeaderBytes;
  }
  template <DType kDtype>
  __device__ int UnitAt(int unit) const {
    using Of = FragmentsOf<kDtype>;
    return unit * Of::kUnitBytes + (SuperOf(unit) + 1) * Of::kHeaderBytes;
  }
};

/// Where units are read from, by byte: the memory of the GPU.
struct GlobalUnits {
  const std::byte* first;
  WeightReader reader;
  __device__ uint4 Load16(int at) const { return reader.Load16(first + at); }
  __device__ uint2 Load8(int at) const { return reader.Load8(first + at); }
  __device__ uint32_t Load4(int at) const { return reader.Load4(first + at); }
};

/// The same in shared memory.
struct SharedUnits {
  __device__ uint4 Load16(int at) const { return SharedArray<uint4>(0)[at / 16]; }
  __device__ uint2 Load8(int at) const { return SharedArray<uint2>(0)[at / 8]; }
  __device__ uint32_t Load4(int at) const { return SharedArray<uint32_t>(0)[at / 4]; }
};

struct ScaleOffset {
  float scale;
  float offset;
};

/// What a lane has of a unit, as it lies: what is read early is unpacked late.
template <DType kDtype>
class LaneUnit {
  using Of = FragmentsOf<kDtype>;

 public:
  /// unit, header: where they begin. The header is that of the unit's super-block.
  template <typename Units>
  __device__ void Load(const Units& units, int unit, int header, int lane) {
#pragma unroll
    for (int i = 0; i < Of::kVectors; ++i) {
      const uint4 v = units.Load16(unit + 16 * (kLanes * i + lane));
      vectors_[4 * i] = v.x;
      vectors_[4 * i + 1] = v.y;
      vectors_[4 * i + 2] = v.z;
      vectors_[4 * i + 3] = v.w;
    }
    if constexpr (Of::kPairs) {
      const uint2 v = units.Load8(unit + Of::kPairsAt + 8 * lane);
      pairs_[0] = v.x;
      pairs_[1] = v.y;
    }
    if constexpr (Of::kSingles) singles_ = units.Load4(unit + Of::kSinglesAt + 4 * lane);
    const int scales = unit + Of::kScalesAt + 8 * Of::kScaleWords * (lane / 4);
    if constexpr (Of::kScaleWords == 2) {
      const uint4 v = units.Load16(scales);
      scales_[0] = v.x;
      scales_[1] = v.y;
      scales_[2] = v.z;
      scales_[3] = v.w;
    } else {
      const uint2 v = units.Load8(scales);
      scales_[0] = v.x;
      scales_[1] = v.y;
    }
    if constexpr (Of::kTile.super_blocks) {
      header_[0] = units.Load4(header + lane / 4 * 4);
      if constexpr (Of::kTile.has_offset) {
        header_[1] =
            units.Load4(header + static_cast<int>(TileFormat::kHalfVectorBytes) + lane / 4 * 4);
      }
    }
  }

  /// The fragment of a block, 0 or 1, as signed bytes of 2^kShift times the codes.
  __device__ void Codes(int block, uint32_t (&codes)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (Of::kBits == 8) {
        codes[i] = vectors_[4 * block + i];
        continue;
      }
      codes[i] = 0;
      if constexpr (Of::kNibbles) {
        codes[i] = Moved(vectors_[2 * block + i % 2], i / 2 * 4, Of::kShift, 0x0f);
      }
      if constexpr (Of::kPairs) {
        codes[i] |= Moved(pairs_[block], 2 * i, Of::kShift + (Of::kNibbles ? 4 : 0), 3);
      }
      if constexpr (Of::kSingles) {
        codes[i] |= Moved(singles_, 4 * block + i, Of::kShift + Of::kBits - 1, 1);
      }
    }
  }

  /// Of row `row` (i 0) or row + 8 (i 1) in a block, or in the half `step` of it.
  __device__ ScaleOffset ScaleOf(int block, int i, int step) const {
    if constexpr (!Of::kTile.super_blocks) {
      ScaleOffset of_row = {HalfOf(scales_[Of::kScaleWords * block], i), 0.0F};
      if constexpr (Of::kTile.has_offset) of_row.offset = HalfOf(scales_[2 * block + 1], i);
      return of_row;
    } else {
      ScaleOffset of_row = {HalfOf(header_[0], i), 0.0F};
      const auto factor = [&](int second) {
        return static_cast<int8_t>(scales_[block] >> (16 * second + 8 * i));
      };
      if constexpr (Of::kTile.nibble_factors) {
        const int both = static_cast<uint8_t>(factor(step));
        of_row.scale *= static_cast<float>(both & 15);
        of_row.offset = HalfOf(header_[1], i) * static_cast<float>(both >> 4);
      } else {
        of_row.scale *= static_cast<float>(factor(step));
        if constexpr (Of::kTile.has_offset) {
          of_row.offset = HalfOf(header_[1], i) * static_cast<float>(factor(1));
        }
      }
      return of_row;
    }
  }

 private:
  /// Bits of each byte, from bit `from` on, moved to bit `to`.
  static __device__ uint32_t Moved(uint32_t word, int from, int to, uint32_t bits) {
    const uint32_t moved = to >= from ? word << (to - from) : word >> (from - to);
    return moved & (bits << to) * 0x01010101U;
  }
  static __device__ float HalfOf(uint32_t halves, int i) {
    return __half2float(__ushort_as_half(static_cast<uint16_t>(halves >> (16 * i))));
  }

  uint32_t vectors_[Of::kVectors > 0 ? 4 * Of::kVectors : 1];
  uint32_t pairs_[2];
  uint32_t singles_;
  uint32_t scales_[2 * Of::kScaleWords];
  uint32_t header_[2];
};

/// A block of a tile times 8 tokens, exactly: products[step][i] is of row lane / 4 + i / 2 * 8 and
/// token 2 (lane % 4) + i % 2. of_tokens: the 8 bytes of token lane / 4 (CodePlace).
template <DType kDtype>
__device__ void MultiplyBlockOfTile(const LaneUnit<kDtype>& unit, int block, const uint2& of_tokens,
                                    float (&products)[FragmentsOf<kDtype>::kSteps][4]) {
  using Of = FragmentsOf<kDtype>;
  // Bits of the float 12582912 + S are those of 12582912 and S added, for |S| < 2^22.
  constexpr int32_t kStart = 0x4B400000;
  constexpr float kStartFloat = 12582912.0F;
  constexpr float kOne = 1.0F / (1 << Of::kShift);
  uint32_t codes[4];
  unit.Codes(block, codes);
#pragma unroll
  for (int step = 0; step < Of::kSteps; ++step) {
    int32_t sums[4];
    if constexpr (Of::kSteps == 2) {
      const uint32_t half[2] = {codes[2 * step], codes[2 * step + 1]};
      MultiplyBytes16(half, step == 0 ? of_tokens.x : of_tokens.y, kStart, sums);
    } else {
      const uint32_t all[2] = {of_tokens.x, of_tokens.y};
      MultiplyBytes32(codes, all, kStart, sums);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // Exact: 2^kShift times the sum is below 2^22, and its low bits are zeros.
      products[step][i] = Of::kShift == 0
                              ? __int_as_float(sums[i]) - kStartFloat
                              : fmaf(__int_as_float(sums[i]), kOne, -kStartFloat * kOne);
    }
  }
}

}  // namespace tandem::core
