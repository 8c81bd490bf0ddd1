#include "core/cuda/cuda_device.h"

#include "core/cuda/cuda_operations.h"

namespace tandem::core {

std::unique_ptr<Operations> MakeCudaOperations(const ModelConfig& config, const Shard& shard,
                                               const CudaOptions& options) {
  return std::make_unique<CudaOperations>(config, shard, options);
}

}  // namespace tandem::core
