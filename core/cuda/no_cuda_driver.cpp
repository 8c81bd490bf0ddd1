#include "core/cuda/cuda_driver.h"

namespace tandem::core {

// Compiled where there is no nvcc (see CMakeLists.txt).
CudaDriver FindCudaDriver() {
  return {.gpus = {}, .problem = "this build has no CUDA: nvcc was not found", .version = {}};
}

GpuFigures MeasureGpu(const Gpu&, bool) { return {}; }

}  // namespace tandem::core
