#include <cuda_runtime.h>

#include <string>

#include "core/cuda/cuda_driver.h"

namespace tandem::core {
namespace {

constexpr int kLeastMajor = 8;  // of the compute capability that CMakeLists.txt compiles for

/// CUDA's numbers of versions: 13020 is 13.2.
std::string VersionText(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

/// Why the runtime finds no device at all.
std::string ProblemOf(cudaError_t error) {
  if (error == cudaErrorNoDevice) return "no CUDA device is here";
  if (error != cudaErrorInsufficientDriver) return cudaGetErrorString(error);
  int driver = 0;
  int runtime = 0;
  // Of no driver it says 0.
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    return "no NVIDIA driver is here";
  }
  if (cudaRuntimeGetVersion(&runtime) != cudaSuccess) return cudaGetErrorString(error);
  return "its NVIDIA driver is for CUDA " + VersionText(driver) + ", and at least " +
         VersionText(runtime) + " is needed";
}

std::string HexText(const cudaUUID_t& uuid) {
  std::string text;
  for (const char byte : uuid.bytes) {
    text += "0123456789abcdef"[static_cast<unsigned char>(byte) >> 4];
    text += "0123456789abcdef"[static_cast<unsigned char>(byte) & 15];
  }
  return text;
}

/// Adds a device to what can be used, or says why it cannot.
void Look(int index, CudaDriver& driver) {
  cudaDeviceProp properties = {};
  const cudaError_t error = cudaGetDeviceProperties(&properties, index);
  std::string problem;
  if (error != cudaSuccess) {
    problem = "GPU " + std::to_string(index) + ": " + cudaGetErrorString(error);
  } else if (properties.major < kLeastMajor) {
    problem = "GPU " + std::to_string(index) + " (" + properties.name +
              ") has compute capability " + std::to_string(properties.major) + "." +
              std::to_string(properties.minor) + ", and at least " + std::to_string(kLeastMajor) +
              ".0 is needed";
  } else if (properties.sharedMemPerBlockOptin < kLeastSharedBytes) {
    problem = "GPU " + std::to_string(index) + " (" + properties.name +
              ") lets a block of threads have " +
              std::to_string(properties.sharedMemPerBlockOptin) +
              " bytes of shared memory, and at least " + std::to_string(kLeastSharedBytes) +
              " are needed";
  } else {
    driver.gpus.push_back({index, properties.name, HexText(properties.uuid)});
    return;
  }
  if (driver.problem.empty()) driver.problem = problem;
}

}  // namespace

CudaDriver FindCudaDriver() {
  CudaDriver driver;
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess) {
    driver.problem = ProblemOf(error);
    return driver;
  }
  for (int index = 0; index < devices; ++index) Look(index, driver);
  if (!driver.gpus.empty()) {
    driver.problem.clear();
  } else if (devices == 0) {
    driver.problem = ProblemOf(cudaErrorNoDevice);
  }
  return driver;
}

}  // namespace tandem::core
