#pragma once

#include <cstddef>
#include <cstdint>

#include "core/cuda/cuda_stream.h"
#include "core/cuda/quantize_kernels.h"
#include "core/model/dtype.h"

/// Products of packed matrices on a GPU, with the bits of core/cpu/linear/linear.h: one thread adds
/// a row, block by block in ascending order, its integer sums by dp4a.
namespace tandem::core {

/// A matrix in memory of the device, in the tiles of core/cpu/linear/tile_format.h: 16 threads read
/// 64 consecutive bytes, each byte once for eight tokens.
struct TileMatrix {
  const std::byte* tiles = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t tile_bytes = 0;
  int64_t first_block = 0;  // of a tile within a super-block of the file, 0 to 7
};

/// What is multiplied: codes for quantized matrices, floats for others. In memory of the device.
struct ProductInput {
  CodeRows codes;
  const float* x = nullptr;  // [tokens, columns]
  int64_t tokens = 0;
};

/// out[token, row] = sum over columns of weights[row, column] * x[token, column], as Linear of
/// core/cpu/linear has it. out: [tokens, rows] on the device. Thread safety: any thread.
void LaunchLinear(CudaStream stream, const TileMatrix& weights, const ProductInput& x, float* out);

/// As LinearPartialSums of core/cpu/linear has it, on the device. sums: [tokens, rows]; failed:
/// [tokens]
void LaunchLinearPartialSums(CudaStream stream, const TileMatrix& weights, const ProductInput& x,
                             int64_t partial_columns, int64_t* sums, int64_t* failed);

}  // namespace tandem::core
