#pragma once

#include "core/cpu/linear/packed_matrix.h"
#include "core/cuda/kernels/gpu.h"

namespace tandem::core {

struct CudaOptions {
  ActivationMode activations = ActivationMode::kQ8;
  int threads = 1;  // of the host, for packing and sampling
  Gpu gpu = {};     // as FindCudaDriver found it
  /// The bits of CPUs; else what is faster may round otherwise.
  bool exact = true;
  bool graphs = true;  // steps that come again are one launch
};

}  // namespace tandem::core
