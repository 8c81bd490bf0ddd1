#pragma once

#include <cstdint>
#include <span>

#include "core/cuda/kernels/cuda_stream.h"
#include "core/cuda/kernels/tile_matrix.h"

/// Products of packed matrices on a GPU, with the bits of core/cpu/linear/linear.h: one fma a block
/// and row, ascending, of integer sums by tensor cores. Thread safety: any thread.
namespace tandem::core {

/// out[token, row] = sum over columns of weights[row, column] * x[token, column], as Linear of
/// core/cpu/linear has it. out: [tokens, rows] on the device.
void LaunchLinear(CudaStream stream, const TileMatrix& weights, const ProductInput& x, float* out);

/// The same for several matrices with as many columns. Those of one quantized type that follow each
/// other are multiplied together, so that small ones leave no processor idle.
void LaunchLinear(CudaStream stream, std::span<const LinearProduct> products,
                  const ProductInput& x);

/// As LinearPartialSums of core/cpu/linear has it, on the device. sums: [tokens, rows]; failed:
/// [tokens], more than 0 where the CPU has more than 0.
void LaunchLinearPartialSums(CudaStream stream, const TileMatrix& weights, const ProductInput& x,
                             int64_t partial_columns, int64_t* sums, int64_t* failed);

/// out = activation(gate * x) * (up * x), as two products and the activation. out, scratch:
/// [tokens, rows] on the device.
void LaunchGatedLinear(CudaStream stream, const GatedMatrices& weights, const ProductInput& x,
                       float* out, float* scratch);

}  // namespace tandem::core
