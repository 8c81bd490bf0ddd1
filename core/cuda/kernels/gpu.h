#pragma once

#include <string>

namespace tandem::core {

/// A GPU of this process: CUDA_VISIBLE_DEVICES decides which there are, and in which order.
struct Gpu {
  int index = 0;     // by the CUDA runtime's numbers
  std::string name;  // "NVIDIA H200"
  std::string id;    // the same wherever a process sees it
};

/// From now on the calls of this thread go to `gpu`: memory, streams and kernels are of it. Throws
/// DeviceFailure.
void UseGpu(const Gpu& gpu);

/// Throws DeviceFailure: one line with this host, the thread's GPU, the call and NVIDIA's words.
/// error: a cudaError_t.
[[noreturn]] void ThrowCudaFailure(int error, const char* call);

}  // namespace tandem::core
