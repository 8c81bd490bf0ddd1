#pragma once

#include <memory>

#include "core/cuda/cuda_options.h"
#include "core/model/operations.h"

namespace tandem::core {

/// The operations on the first GPU of this machine, which FindCudaDriver must have found; `config`
/// must outlive them. A build without CUDA has none: null.
std::unique_ptr<Operations> MakeCudaOperations(const ModelConfig& config, const Shard& shard,
                                               const CudaOptions& options);

}  // namespace tandem::core
