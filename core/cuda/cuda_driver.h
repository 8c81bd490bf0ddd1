#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/cuda/kernels/gpu.h"

namespace tandem::core {

/// What the CUDA runtime finds on this machine.
struct CudaDriver {
  std::vector<Gpu> gpus;  // that can be used
  std::string problem;    // why there is none, for a message
  std::string version;    // "580.65.06 (CUDA 13.0)", as far as it is told
};

/// Thread safety: any thread. A build without CUDA finds none and says so.
CudaDriver FindCudaDriver();

/// What a GPU has and does now.
struct GpuFigures {
  int64_t free_bytes = 0;
  double bytes_per_second = 0;  // read and written as it copies within its memory; 0: not measured
};
/// `speed`: by copies of some MiB, which take a few milliseconds. Throws DeviceFailure. A build
/// without CUDA has none to ask.
GpuFigures MeasureGpu(const Gpu& gpu, bool speed);

}  // namespace tandem::core
