#include <cuda_runtime.h>

#include "core/cuda/cuda_driver.h"

namespace tandem::core {

CudaDriver FindCudaDriver() {
  CudaDriver driver;
  const cudaError_t error = cudaGetDeviceCount(&driver.devices);
  if (error != cudaSuccess) {
    driver.devices = 0;
    driver.problem = cudaGetErrorString(error);
  } else if (driver.devices == 0) {
    driver.problem = "no CUDA device is here";
  }
  return driver;
}

}  // namespace tandem::core
