// Compiled where there is no nvcc (see CMakeLists.txt).

#include "core/cuda/cuda_device.h"
#include "core/cuda/cuda_driver.h"

namespace tandem::core {

CudaDriver FindCudaDriver() {
  return {.gpus = {}, .problem = "this build has no CUDA: nvcc was not found", .version = {}};
}

GpuFigures MeasureGpu(const Gpu&, bool) { return {}; }

std::unique_ptr<Operations> MakeCudaOperations(const ModelConfig&, const Shard&,
                                               const CudaOptions&) {
  return nullptr;
}

}  // namespace tandem::core
