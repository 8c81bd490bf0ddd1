#pragma once

#include <cstdint>

#include "core/cuda/kernels/cuda_stream.h"

/// Rounding of activations to 8 bits on a GPU, with the bits of Activations
/// (core/cpu/linear/linear.h): the same codes, scales and sums, in a layout of the GPU's own.
namespace tandem::core {

/// Rows of codes in memory of the device. `blocks` is columns / 32, rounded up.
struct CodeRows {
  // [rows, blocks, 32], those of a block as CodePlace of fragment_format.h has them, zero behind
  // the last column
  int8_t* codes = nullptr;
  float* scales = nullptr;  // [rows, blocks]
  int32_t* sums = nullptr;  // [rows, blocks, 2]: of the codes of columns 0 to 15, and 16 to 31
  int64_t blocks = 0;
};

/// x: [rows, columns] on the device. Thread safety: any thread.
void LaunchQuantize(CudaStream stream, const float* x, int64_t rows, int64_t columns,
                    const CodeRows& out);

}  // namespace tandem::core
