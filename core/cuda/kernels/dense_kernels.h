#pragma once

#include <cstdint>

#include "core/cuda/kernels/cuda_stream.h"
#include "core/cuda/kernels/tile_matrix.h"

/// Products in fast mode, whose sums are in another order than the CPU's. All pointers are to
/// memory of the device. Thread safety: any thread.
namespace tandem::core {

inline constexpr int64_t kMostFastRowTokens = 8;

/// As LaunchLinear has it, for weights of floats and at most kMostFastRowTokens tokens: each byte
/// is read once, 16 together.
void LaunchFastFloatLinear(CudaStream stream, const TileMatrix& weights, const ProductInput& x,
                           float* out);

/// sums = x rounded as partial sums are (numerics.md, rule 3); failed[token] counts what cannot be.
/// x, sums: [tokens, columns]; failed: [tokens]
void LaunchToPartialSums(CudaStream stream, const float* x, int64_t tokens, int64_t columns,
                         int64_t* sums, int64_t* failed);

/// Bits of bfloat16, rounded to nearest even. [n]
void LaunchToBfloat16(CudaStream stream, const float* x, int64_t n, uint16_t* out);

/// Rows [first_row, first_row + rows) of the weights as bfloat16, one after the other. first_row: a
/// multiple of kTileRows; out: [rows, columns]
void LaunchExpandToBfloat16(CudaStream stream, const TileMatrix& weights, int64_t first_row,
                            int64_t rows, uint16_t* out);

}  // namespace tandem::core
