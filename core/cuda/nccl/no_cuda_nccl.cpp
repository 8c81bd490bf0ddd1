#include "core/cuda/nccl/cuda_nccl_link.h"

namespace tandem::core {

// Compiled where there is no nvcc (see CMakeLists.txt).
absl::StatusOr<std::unique_ptr<DeviceLinker>> OpenNccl() {
  return Unavailable("this program was built without CUDA, and so without NCCL");
}

}  // namespace tandem::core
