#pragma once

#include <cstdint>

#include "core/cuda/kernels/cuda_stream.h"
#include "core/cuda/kernels/tile_matrix.h"

/// Products of packed matrices on a GPU, with the bits of core/cpu/linear/linear.h: one thread adds
/// a row, block by block in ascending order, its integer sums by dp4a.
namespace tandem::core {

/// out[token, row] = sum over columns of weights[row, column] * x[token, column], as Linear of
/// core/cpu/linear has it. out: [tokens, rows] on the device. Thread safety: any thread.
void LaunchLinear(CudaStream stream, const TileMatrix& weights, const ProductInput& x, float* out);

/// As LinearPartialSums of core/cpu/linear has it, on the device. sums: [tokens, rows]; failed:
/// [tokens]
void LaunchLinearPartialSums(CudaStream stream, const TileMatrix& weights, const ProductInput& x,
                             int64_t partial_columns, int64_t* sums, int64_t* failed);

}  // namespace tandem::core
