#pragma once

#include <memory>

#include "core/cuda/blas/cuda_blas.h"
#include "core/cuda/cuda_memory.h"
#include "core/cuda/kernels/tile_matrix.h"
#include "core/model/tensor.h"

namespace tandem::core {

/// Products in fast mode of what exact mode is slow at: many tokens, which are multiplied as
/// bfloat16 on tensor cores, and weights of floats. Thread safety: one thread calls.
class CudaDenseProducts {
 public:
  /// `memory` must outlive it. Errors: those of OpenCudaBlas.
  static absl::StatusOr<std::unique_ptr<CudaDenseProducts>> Create(CudaMemory& memory);

  /// Whether Multiply is faster than the exact product.
  static bool Wants(DType dtype, int64_t tokens);
  /// The input of the products from now on, which must not change while they are made: several of
  /// them share its bfloat16.
  void SetInput(const ProductInput& x);
  /// out = x.x * weights transposed, of the input x. out: [x.tokens, weights.rows] on the device.
  /// False, and nothing is done, if the library cannot.
  bool Multiply(const TileMatrix& weights, float* out);
  /// The same as partial sums, of all columns together. Shapes as LaunchLinearPartialSums has them.
  bool MultiplyToPartialSums(const TileMatrix& weights, int64_t* sums, int64_t* failed);

 private:
  CudaDenseProducts(CudaMemory& memory, std::unique_ptr<CudaBlas> blas)
      : memory_(memory),
        blas_(std::move(blas)),
        x_(memory, 1),
        weights_(memory, 1),
        sums_(memory, 1) {}

  CudaMemory& memory_;
  std::unique_ptr<CudaBlas> blas_;
  ProductInput input_;
  bool converted_ = false;  // x_ has the input
  Rows<uint16_t> x_;        // bfloat16
  Rows<uint16_t> weights_;  // bfloat16, of some rows
  Rows<float> sums_;        // on their way to partial sums
};

}  // namespace tandem::core
