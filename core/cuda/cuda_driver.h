#pragma once

#include <string>
#include <vector>

#include "core/cuda/kernels/gpu.h"

namespace tandem::core {

/// What the CUDA runtime finds on this machine.
struct CudaDriver {
  std::vector<Gpu> gpus;  // that can be used
  std::string problem;    // why there is none, for a message
};

/// Thread safety: any thread. A build without CUDA finds none and says so.
CudaDriver FindCudaDriver();

}  // namespace tandem::core
