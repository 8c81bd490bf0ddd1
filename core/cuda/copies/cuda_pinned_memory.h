#pragma once

#include <cstddef>
#include <memory>

#include "core/cuda/kernels/gpu.h"
#include "core/model/host_memory.h"

namespace tandem::core {

/// Frees what cudaMallocHost gave.
struct FreePinned {
  void operator()(std::byte* memory) const;
};
/// Host memory that the GPU reads and writes by itself.
using PinnedBytes = std::unique_ptr<std::byte[], FreePinned>;
/// Of the thread's GPU. Throws DeviceFailure if there is none.
PinnedBytes AllocatePinned(size_t bytes);
/// Null if there is none.
PinnedBytes TryAllocatePinned(size_t bytes);

/// Pinned memory of the host, for the copies of one GPU. Thread safety: as DeviceMemory has it.
class CudaPinnedMemory final : public HostMemory {
 public:
  explicit CudaPinnedMemory(Gpu gpu) : gpu_(std::move(gpu)) {}
  std::shared_ptr<std::byte> Allocate(int64_t bytes) override;
  absl::StatusOr<std::shared_ptr<std::byte>> AllocateZeroed(int64_t bytes) override;

 private:
  const Gpu gpu_;
};

}  // namespace tandem::core
