#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "core/tile_format.h"

/// The inner product of one tile with a few tokens, and the seam between linear.cpp and the
/// instruction sets. Nobody else includes this.
namespace tandem::core {

/// One tile times T tokens that lie together in one group of activations.
struct TileWork {
  const std::byte* tile = nullptr;
  int64_t columns = 0;
  int64_t leaf_columns = 0;  // columns, rounded up, where there are no leaves

  // Codes of these tokens (quantized weights). Strides from block to block follow from
  // group_tokens.
  int64_t group_tokens = 0;           // tokens that lie together
  const int8_t* codes = nullptr;      // [blocks][group_tokens][32]
  const float* scales = nullptr;      // [blocks][group_tokens]
  const int32_t* sums = nullptr;      // [blocks][3][group_tokens], see Activations
  const float* float_sums = nullptr;  // the same, as floats

  // Floats of these tokens (float weights).
  const float* x = nullptr;  // [T, columns]
  int64_t x_stride = 0;

  float* out = nullptr;             // [T][16]; null: leaves are wanted
  int64_t* leaf_sums = nullptr;     // [T][16], added to
  uint32_t* failed_rows = nullptr;  // [T], bit r is set where a leaf of row r failed
};

using TileKernel = void (*)(const TileWork&);

/// Kernels of one instruction set for one dtype: entry i takes 2^i tokens at once; null where there
/// is none that large.
struct TileKernels {
  static constexpr int kSizes = 4;
  TileKernel by_size[kSizes] = {};
};

TileKernels ScalarKernels(DType dtype);
TileKernels Avx2Kernels(DType dtype);
TileKernels Avx512Kernels(DType dtype);

inline constexpr float kLeafScale = 4294967296.0F;  // 2^32: leaves are multiples of 2^-32
inline constexpr float kLeafLimit = 4194304.0F;     // 2^22

}  // namespace tandem::core
