#include "core/cuda/peer/cuda_peer_link.h"

namespace tandem::core {

// Compiled where there is no nvcc (see CMakeLists.txt).
absl::StatusOr<std::unique_ptr<DeviceLinker>> OpenPeers() {
  return Unavailable("this program was built without CUDA");
}

}  // namespace tandem::core
