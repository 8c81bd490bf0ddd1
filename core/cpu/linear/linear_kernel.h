#pragma once

#include <cstddef>
#include <cstdint>

#include "core/cpu/linear/tile_format.h"
#include "core/model/dtype.h"

/// The inner product of one tile with a few tokens, and the seam between linear.cpp and the
/// instruction sets. Nobody else includes this.
namespace tandem::core {

/// R tiles times T tokens that lie together in one group of activations.
struct TileWork {
  const std::byte* tile = nullptr;
  int64_t tile_stride = 0;  // bytes from tile to tile
  int64_t columns = 0;
  int64_t first_block = 0;      // of the tile, within a super-block of the file (K-quants)
  int64_t partial_columns = 0;  // columns, where there are no partial sums

  // Codes of these tokens (quantized weights); see Activations::Group.
  int64_t group_tokens = 0;                // tokens that lie together
  const int8_t* codes = nullptr;           // [blocks][group_tokens][32]
  const float* scales = nullptr;           // [blocks][group_tokens]
  const int32_t* negative_sums = nullptr;  // [blocks][3][group_tokens]
  const float* float_sums = nullptr;       // [blocks][3][group_tokens]

  // Floats of these tokens (float weights).
  const float* x = nullptr;  // [T, columns]
  int64_t x_stride = 0;

  // [T][R * 16] with out_stride elements from token to token.
  int64_t out_stride = 0;
  float* out = nullptr;  // null: partial sums are wanted
  int64_t* partial_sums = nullptr;
  uint32_t* failed_rows = nullptr;  // [R][T], bit r is set where a partial sum of row r failed
};

using TileFunction = void (*)(const TileWork&);

struct TileKernel {
  int tiles = 0;   // R
  int tokens = 0;  // T
  TileFunction run = nullptr;
};

/// Kernels of one instruction set for one dtype, those to be preferred first; the last one takes a
/// single tile and a single token, so that any number of each can be done.
struct TileKernels {
  static constexpr int kMost = 6;
  static constexpr int kMostTiles = 4;
  static constexpr int kMostTokens = 8;
  TileKernel kernels[kMost] = {};
  int count = 0;
};

TileKernels ScalarKernels(DType dtype);
TileKernels Avx2Kernels(DType dtype);
TileKernels Avx512Kernels(DType dtype);

inline constexpr float kPartialSumScale =
    4294967296.0F;  // 2^32: partial sums are multiples of 2^-32
inline constexpr int kPartialSumExponent = 32;
inline constexpr float kPartialSumLimit = 4194304.0F;        // 2^22
inline constexpr int32_t kPartialSumLimitBits = 0x4a800000;  // of the float

}  // namespace tandem::core
