#include <cuda_runtime.h>

#include <string>

#include "core/cuda/kernels/gpu.h"
#include "core/model/device_failure.h"
#include "core/system/host_name.h"

namespace tandem::core {
namespace {

/// As cudaSetDevice has it: of each thread. Its name is kept here since a GPU that failed tells
/// none.
struct ThreadGpu {
  int index = -1;
  std::string name;
};
thread_local ThreadGpu thread_gpu;

}  // namespace

void UseGpu(const Gpu& gpu) {
  if (thread_gpu.index == gpu.index && thread_gpu.name == gpu.name) return;
  const cudaError_t error = cudaSetDevice(gpu.index);
  thread_gpu = {gpu.index, gpu.name};
  if (error != cudaSuccess) ThrowCudaFailure(error, "cudaSetDevice");
}

void ThrowCudaFailure(int error, const char* call) {
  std::string gpu = "no GPU";
  if (thread_gpu.index >= 0) gpu = "GPU " + std::to_string(thread_gpu.index);
  if (!thread_gpu.name.empty()) gpu += " (" + thread_gpu.name + ")";
  throw DeviceFailure("CUDA on host " + HostName() + ", " + gpu + ": " + call +
                      " failed: " + cudaGetErrorString(static_cast<cudaError_t>(error)));
}

}  // namespace tandem::core
