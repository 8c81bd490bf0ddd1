#pragma once

#include <cstdint>
#include <memory>

#include "core/base/status.h"
#include "core/cuda/kernels/cuda_stream.h"

namespace tandem::core {

/// What cuBLASLt works in.
inline constexpr int64_t kBlasWorkspaceBytes = int64_t{32} << 20;

/// Dense products of bfloat16 on tensor cores, by a library of NVIDIA's that is looked for when it
/// is wanted. Thread safety: one thread calls.
class CudaBlas {
 public:
  virtual ~CudaBlas() = default;

  struct Product {
    const uint16_t* weights = nullptr;  // [rows, columns]
    const uint16_t* x = nullptr;        // [tokens, columns]
    int64_t rows = 0;
    int64_t tokens = 0;
    int64_t columns = 0;
    float* out = nullptr;  // [tokens, rows], out_stride floats apart
    int64_t out_stride = 0;
  };
  /// out = x * weights transposed, sums in float32, put into the stream. All in memory of the
  /// device. False if the library has no way to compute this shape.
  virtual bool Multiply(CudaStream stream, const Product& product) = 0;
};

/// cuBLASLt of CUDA 12 or 13, from where the dynamic linker finds it. kUnavailable names what is
/// missing.
absl::StatusOr<std::unique_ptr<CudaBlas>> OpenCudaBlas();

}  // namespace tandem::core
