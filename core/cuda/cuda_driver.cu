#include <cuda_runtime.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>

#include "core/cuda/cuda_driver.h"

namespace tandem::core {
namespace {

constexpr int kLeastMajor = 8;  // of the compute capability that CMakeLists.txt compiles for
// Of a measured copy: more than any cache of a GPU has, where its memory allows that.
constexpr size_t kCopyBytes = size_t{256} << 20;
constexpr size_t kCopyShare = 256;  // of what is free, at most a 256th
constexpr int kCopies = 6;          // of which the fastest counts

/// CUDA's numbers of versions: 13020 is 13.2.
std::string VersionText(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

/// "580.65.06 (CUDA 13.0)": the kernel's module, where the system tells it, and the newest CUDA it
/// serves.
std::string DriverText() {
  int version = 0;
  const bool known = cudaDriverGetVersion(&version) == cudaSuccess && version != 0;
  const std::string cuda = known ? "CUDA " + VersionText(version) : "";
  std::ifstream file("/proc/driver/nvidia/version");
  std::string line;
  std::getline(file, line);
  std::istringstream words(line);
  // "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build ..."
  for (std::string word; words >> word;) {
    const bool digits = word.find_first_not_of("0123456789.") == std::string::npos;
    if (digits && word.find('.') != std::string::npos) return word + " (" + cuda + ")";
  }
  return cuda;
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

void Check(cudaError_t error, const char* call) {
  if (error != cudaSuccess) ThrowCudaFailure(error, call);
}

/// What a measurement needs, of the thread's GPU.
struct CopyRig {
  explicit CopyRig(size_t bytes) {
    Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    for (cudaEvent_t& event : events) {
      Check(cudaEventCreateWithFlags(&event, cudaEventDefault), "cudaEventCreateWithFlags");
    }
    for (void*& buffer : buffers) Check(cudaMalloc(&buffer, bytes), "cudaMalloc");
    Check(cudaMemsetAsync(buffers[0], 0, bytes, stream), "cudaMemsetAsync");
  }
  ~CopyRig() {
    if (stream != nullptr) static_cast<void>(cudaStreamSynchronize(stream));
    for (void* buffer : buffers) static_cast<void>(cudaFree(buffer));
    for (cudaEvent_t event : events) {
      if (event != nullptr) static_cast<void>(cudaEventDestroy(event));
    }
    if (stream != nullptr) static_cast<void>(cudaStreamDestroy(stream));
  }
  CopyRig(const CopyRig&) = delete;
  CopyRig& operator=(const CopyRig&) = delete;

  cudaStream_t stream = nullptr;
  cudaEvent_t events[2] = {};
  void* buffers[2] = {};
};

/// Seconds of the fastest copy.
double FastestCopy(const CopyRig& rig, size_t bytes) {
  float best = 0;
  for (int i = 0; i < kCopies; ++i) {
    Check(cudaEventRecord(rig.events[0], rig.stream), "cudaEventRecord");
    Check(cudaMemcpyAsync(rig.buffers[1], rig.buffers[0], bytes, cudaMemcpyDeviceToDevice,
                          rig.stream),
          "cudaMemcpyAsync");
    Check(cudaEventRecord(rig.events[1], rig.stream), "cudaEventRecord");
    Check(cudaStreamSynchronize(rig.stream), "a copy");
    float milliseconds = 0;
    Check(cudaEventElapsedTime(&milliseconds, rig.events[0], rig.events[1]),
          "cudaEventElapsedTime");
    if (best == 0 || milliseconds < best) best = milliseconds;
  }
  return best / 1e3;
}

}  // namespace

GpuFigures MeasureGpu(const Gpu& gpu, bool speed) {
  UseGpu(gpu);
  size_t free = 0;
  size_t total = 0;
  Check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  GpuFigures figures;
  figures.free_bytes = static_cast<int64_t>(free);
  const size_t bytes = std::min(kCopyBytes, free / kCopyShare) / 256 * 256;
  if (!speed || bytes == 0) return figures;
  const double seconds = FastestCopy(CopyRig(bytes), bytes);
  if (seconds > 0) figures.bytes_per_second = 2.0 * static_cast<double>(bytes) / seconds;
  return figures;
}

CudaDriver FindCudaDriver() {
  CudaDriver driver;
  driver.version = DriverText();
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
