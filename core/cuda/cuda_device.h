#pragma once

#include <memory>

#include "core/cuda/cuda_options.h"
#include "core/model/operations.h"

namespace tandem::core {

/// The operations on a GPU that FindCudaDriver found; `config` must outlive them. A build without
/// CUDA has none: null. Throws DeviceFailure.
std::unique_ptr<Operations> MakeCudaOperations(const ModelConfig& config, const Shard& shard,
                                               const CudaOptions& options);

}  // namespace tandem::core
