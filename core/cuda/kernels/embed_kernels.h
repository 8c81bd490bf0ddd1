#pragma once

#include <cstddef>
#include <cstdint>

#include "core/cuda/kernels/cuda_stream.h"
#include "core/model/dtype.h"

namespace tandem::core {

/// Rows of a matrix as they lie in a model file, one after the other.
struct FileRows {
  DType dtype = DType::kF32;
  const std::byte* data = nullptr;  // of the device; a multiple of 4
  int64_t count = 0;
  int64_t columns = 0;
};

/// out = rows * scale, with the bits of Dequantize (core/model/dtype.h). out: [count, columns] of
/// the device. Work is put into `stream`. Thread safety: any thread.
void LaunchExpandRows(CudaStream stream, const FileRows& rows, float scale, float* out);

/// Row i of `out` = the row of `table` of token tokens[from[i]] (of token 0 where that is less than
/// 0), as it lies in the file; where from[i] is less than 0, it stays. table: [rows, row_bytes] of
/// pinned host memory; from: [count]; out: [count, row_bytes]. row_bytes: even.
void LaunchTakeRows(CudaStream stream, const std::byte* table, int64_t row_bytes,
                    const int32_t* tokens, const int32_t* from, int64_t count, std::byte* out);

}  // namespace tandem::core
