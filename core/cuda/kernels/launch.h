#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "core/cuda/kernels/gpu.h"

/// Starting kernels, and what is done where the CUDA runtime refuses something.
namespace tandem::core {

inline constexpr unsigned kWarpThreads = 32;

/// Throws DeviceFailure if a call failed.
inline void CheckCuda(cudaError_t error, const char* call) {
  if (error != cudaSuccess) ThrowCudaFailure(error, call);
}

/// Blocks that cover `count` things, `each` a block.
inline unsigned Blocks(int64_t count, int64_t each) {
  return static_cast<unsigned>((count + each - 1) / each);
}

/// Of the GPU, which are those of all GPUs that the process uses.
inline const cudaDeviceProp& GpuProperties() {
  static const cudaDeviceProp of_gpu = [] {
    int device = 0;
    cudaDeviceProp properties = {};
    CheckCuda(cudaGetDevice(&device), "cudaGetDevice");
    CheckCuda(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
    return properties;
  }();
  return of_gpu;
}

inline int64_t Processors() { return GpuProperties().multiProcessorCount; }

/// Shared memory that a block of threads may have: at least kLeastSharedBytes.
inline int64_t SharedBytesOfBlock() {
  return static_cast<int64_t>(GpuProperties().sharedMemPerBlockOptin);
}

/// Whether kernels may start while the one before still runs (device_code.h): on GPUs of compute
/// capability 9.0 and later.
inline bool StartsKernelsEarly() { return GpuProperties().major >= 9; }

/// Lets a kernel have more shared memory than the 48 KiB that all may have: at most
/// SharedBytesOfBlock(). True.
template <typename Kernel>
bool AllowSharedBytes(Kernel* kernel, int bytes) {
  CheckCuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
            "cudaFuncSetAttribute");
  return true;
}

/// The same for bytes that all GPUs have.
template <int kBytes, typename Kernel>
bool AllowSharedBytes(Kernel* kernel) {
  static_assert(kBytes <= kLeastSharedBytes);
  return AllowSharedBytes(kernel, kBytes);
}

/// Enqueues kernel(arguments...). Nothing where the grid is empty.
template <typename... Parameters, typename... Arguments>
void Launch(cudaStream_t stream, dim3 grid, unsigned threads, size_t shared_bytes,
            void (*kernel)(Parameters...), Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = threads;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &early;
  config.numAttrs = StartsKernelsEarly() ? 1 : 0;
  CheckCuda(cudaLaunchKernelEx(&config, kernel, arguments...), "cudaLaunchKernelEx");
}

}  // namespace tandem::core
