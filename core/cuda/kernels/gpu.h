#pragma once

#include <string>

namespace tandem::core {

/// A GPU of this process: CUDA_VISIBLE_DEVICES decides which there are, and in which order.
struct Gpu {
  int index = 0;     // by the CUDA runtime's numbers
  std::string name;  // "NVIDIA H200"
  std::string id;    // the same wherever a process sees it
};

/// Shared memory that a block of threads may have on all GPUs of compute capability 8.0 and later.
/// Source: CUDA C++ Programming Guide 13.0, technical specifications per compute capability.
inline constexpr int kLeastSharedBytes = 99 * 1024;

/// From now on the calls of this thread go to `gpu`: memory, streams and kernels are of it. Throws
/// DeviceFailure.
void UseGpu(const Gpu& gpu);

/// Throws DeviceFailure: one line with this host, the thread's GPU, the call and NVIDIA's words.
/// error: a cudaError_t.
[[noreturn]] void ThrowCudaFailure(int error, const char* call);

}  // namespace tandem::core
