#include <cuda_runtime.h>

#include "core/cuda/cuda_driver.h"

namespace tandem::core {
namespace {

constexpr int kLeastMajor = 8;  // of the compute capability that CMakeLists.txt compiles for

/// Why the first device cannot be used; empty if it can.
std::string ProblemOfFirst() {
  int major = 0;
  int minor = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
  if (major >= kLeastMajor) return "";
  return "GPU 0 has compute capability " + std::to_string(major) + "." + std::to_string(minor) +
         ", and at least " + std::to_string(kLeastMajor) + ".0 is needed";
}

}  // namespace

CudaDriver FindCudaDriver() {
  CudaDriver driver;
  const cudaError_t error = cudaGetDeviceCount(&driver.devices);
  if (error != cudaSuccess) {
    driver.devices = 0;
    driver.problem = cudaGetErrorString(error);
  } else if (driver.devices == 0) {
    driver.problem = "no CUDA device is here";
  } else {
    driver.problem = ProblemOfFirst();
    if (!driver.problem.empty()) driver.devices = 0;
  }
  return driver;
}

}  // namespace tandem::core
