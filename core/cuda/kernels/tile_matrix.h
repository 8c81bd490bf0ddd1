#pragma once

#include <cstddef>
#include <cstdint>

#include "core/cuda/kernels/quantize_kernels.h"
#include "core/model/config.h"
#include "core/model/dtype.h"

namespace tandem::core {

/// A matrix in memory of the device. Quantized types lie in tiles of fragment_format.h, floats in
/// those of core/cpu/linear/tile_format.h.
struct TileMatrix {
  const std::byte* tiles = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t tile_bytes = 0;
  int64_t first_block = 0;  // of a tile within a super-block of the file, 0 to 7
};

/// The first half of a feed-forward block.
struct GatedMatrices {
  TileMatrix gate;  // of the same shape as `up`
  TileMatrix up;
  Activation kind = Activation::kSilu;
};

/// A matrix, and where its product goes.
struct LinearProduct {
  TileMatrix weights;
  float* out = nullptr;  // [tokens, weights.rows] on the device
};

/// Products that are made together, at most.
inline constexpr int kMostJoined = 3;

/// What is multiplied: codes for quantized matrices, floats for others. In memory of the device.
struct ProductInput {
  CodeRows codes;
  const float* x = nullptr;  // [tokens, columns]
  int64_t tokens = 0;
};

}  // namespace tandem::core
