#pragma once

#include <string>

namespace tandem::core {

/// What the CUDA runtime finds on this machine. None, if the first device cannot be used.
struct CudaDriver {
  int devices = 0;
  std::string problem;  // why there is none, for a message
};

/// Thread safety: any thread. A build without CUDA finds none and says so.
CudaDriver FindCudaDriver();

}  // namespace tandem::core
