#include "core/cuda/copies/cuda_pinned_memory.h"

#include <cuda_runtime.h>

#include <cstring>

#include "core/cuda/kernels/launch.h"
#include "core/model/device_status.h"

namespace tandem::core {

void FreePinned::operator()(std::byte* memory) const {
  // A GPU that failed has told so, and what it held ends with the process.
  static_cast<void>(cudaFreeHost(memory));
}

PinnedBytes AllocatePinned(size_t bytes) {
  void* memory = nullptr;
  CheckCuda(cudaMallocHost(&memory, bytes), "cudaMallocHost");
  return PinnedBytes(static_cast<std::byte*>(memory));
}

PinnedBytes TryAllocatePinned(size_t bytes) {
  void* memory = nullptr;
  const cudaError_t error = cudaMallocHost(&memory, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // or a launch would tell of it
    return nullptr;
  }
  CheckCuda(error, "cudaMallocHost");
  return PinnedBytes(static_cast<std::byte*>(memory));
}

std::shared_ptr<std::byte> CudaPinnedMemory::Allocate(int64_t bytes) {
  UseGpu(gpu_);
  return {AllocatePinned(static_cast<size_t>(bytes)).release(), FreePinned()};
}

absl::StatusOr<std::shared_ptr<std::byte>> CudaPinnedMemory::AllocateZeroed(int64_t bytes) {
  return WithDeviceFailures([&]() -> absl::StatusOr<std::shared_ptr<std::byte>> {
    UseGpu(gpu_);
    PinnedBytes memory = TryAllocatePinned(static_cast<size_t>(bytes));
    if (memory == nullptr && bytes > 0) {
      return ResourceExhausted("{} bytes of pinned host memory cannot be had", bytes);
    }
    if (bytes > 0) std::memset(memory.get(), 0, static_cast<size_t>(bytes));
    return std::shared_ptr<std::byte>(memory.release(), FreePinned());
  });
}

}  // namespace tandem::core
