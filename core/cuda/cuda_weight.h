#pragma once

#include <memory>

#include "core/base/status.h"
#include "core/base/thread_pool.h"
#include "core/cpu/linear/packed_matrix.h"
#include "core/cuda/cuda_memory.h"
#include "core/cuda/kernels/tile_matrix.h"
#include "core/model/operations.h"

namespace tandem::core {

/// A matrix in the memory of a GPU. Immutable; safe to read from any thread.
class CudaWeight final : public Weight {
 public:
  /// Packs as PackedMatrix does, on the threads of the pool, and moves the tiles to the GPU. Errors
  /// name the matrix: those of PackedMatrix, and kResourceExhausted if the GPU has no room for it;
  /// kUnavailable if it failed.
  static absl::StatusOr<std::unique_ptr<CudaWeight>> Pack(const MatrixSource& source, Range rows,
                                                          Range columns, ActivationMode mode,
                                                          CudaMemory& memory, ThreadPool& pool);

  /// Of tiles that lie on the GPU already.
  static std::unique_ptr<CudaWeight> OfTiles(const TileMatrix& matrix, int64_t bytes,
                                             std::shared_ptr<std::byte> tiles);

  int64_t rows() const override { return matrix_.rows; }
  int64_t columns() const override { return matrix_.columns; }
  int64_t bytes() const override { return bytes_; }
  const TileMatrix& matrix() const { return matrix_; }
  /// True if products with it take codes.
  bool quantized() const { return TileFormatOf(matrix_.dtype).quantized(); }

 private:
  CudaWeight() = default;

  TileMatrix matrix_;
  int64_t bytes_ = 0;
  std::shared_ptr<std::byte> tiles_;
};

}  // namespace tandem::core
