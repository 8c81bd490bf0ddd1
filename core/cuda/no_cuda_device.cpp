#include "core/cuda/cuda_device.h"

namespace tandem::core {

// Compiled where there is no nvcc (see CMakeLists.txt).
std::unique_ptr<Operations> MakeCudaOperations(const ModelConfig&, const Shard&,
                                               const CudaOptions&) {
  return nullptr;
}

}  // namespace tandem::core
