#include "tests/cuda_emulation/streams.h"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <vector>

#include "fmt/format.h"
#include "tests/cuda_emulation/cuda_runtime.h"
#include "tests/cuda_emulation/device_buffers.h"
#include "tests/cuda_emulation/gpus.h"
#include "tests/cuda_emulation/grid.h"

/// Makes what is put into a stream: called again and again until it gives true. A graph that is
/// launched again makes it anew.
using Work = std::function<std::function<bool()>()>;

struct CUgraph_st {
  int gpu = 0;
  std::vector<Work> works;
};
struct CUgraphExec_st {
  CUgraph_st graph;
};

/// What was put into a stream and has not run yet.
struct CUstream_st {
  int gpu = 0;
  std::optional<CUgraph_st> captured;         // while it captures
  std::deque<std::function<bool()>> waiting;  // false: not yet done, to be called again
  uint64_t done = 0;
  uint64_t put = 0;
  uint64_t last_graph = 0;    // its end, among what was put
  double copied_seconds = 0;  // that its copies take by the clock of events
};

/// A place in a stream.
struct CUevent_st {
  int gpu = 0;
  cudaStream_t stream = nullptr;
  uint64_t place = 0;
  double copied_seconds = 0;  // of the stream
};

namespace tandem::cuda_emulation {
namespace {

constexpr size_t kMostThreads = 1024;
constexpr size_t kSharedBytes = 48 * 1024;  // without asking for more

/// All streams of all GPUs. Grids run one at a time: streams wait for one another in any direction.
struct Device {
  std::recursive_mutex mutex;
  std::set<cudaStream_t> streams;
  std::map<const void*, size_t> shared_bytes;  // of kernels that asked for more

  size_t SharedBytesOf(const void* kernel) {
    const std::lock_guard lock(mutex);
    const auto found = shared_bytes.find(kernel);
    return found == shared_bytes.end() ? kSharedBytes : found->second;
  }
};

Device& TheDevice() {
  static auto* const device = new Device;
  return *device;
}

std::atomic<uint64_t> current_seed = 1;
std::atomic<uint64_t> launches = 0;
std::atomic<uint64_t> bytes_to_host = 0;
std::atomic<uint64_t> graph_launches = 0;
std::map<int, uint64_t> graph_launches_ahead;  // of GPUs; with the device locked

/// Runs what a stream has up to a place in it, as far as it goes. With the device locked. Whether
/// it has come there.
bool Advance(cudaStream_t stream, uint64_t place) {
  if (stream->done >= place) return true;
  const DeviceAtWork at_work(stream->gpu);
  while (stream->done < place && !stream->waiting.empty()) {
    if (!stream->waiting.front()()) return false;
    stream->waiting.pop_front();
    ++stream->done;
  }
  return true;
}

/// With the device locked.
bool IsStream(cudaStream_t stream) { return TheDevice().streams.count(stream) != 0; }

/// Waits until a stream has come to a place, or is destroyed. What waits for other threads lets
/// them have the device meanwhile.
void RunUntil(cudaStream_t stream, uint64_t place) {
  while (true) {
    {
      const std::lock_guard lock(TheDevice().mutex);
      if (!IsStream(stream) || Advance(stream, place)) return;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

/// Everything that the streams of a GPU have.
void RunAll(int gpu) {
  std::vector<std::pair<cudaStream_t, uint64_t>> all;
  {
    const std::lock_guard lock(TheDevice().mutex);
    for (const cudaStream_t stream : TheDevice().streams) {
      if (stream->gpu == gpu) all.emplace_back(stream, stream->put);
    }
  }
  for (const auto& [stream, place] : all) RunUntil(stream, place);
}

cudaError_t Put(cudaStream_t stream, Work work) {
  const std::lock_guard lock(TheDevice().mutex);
  if (!IsStream(stream)) return cudaErrorInvalidValue;
  if (stream->captured.has_value()) {
    stream->captured->works.push_back(std::move(work));
    return cudaSuccess;
  }
  stream->waiting.push_back(work());
  ++stream->put;
  return cudaSuccess;
}

/// The same for what is done when it has been called.
template <typename Called>
cudaError_t PutOnce(cudaStream_t stream, Called called) {
  const auto once = std::make_shared<Called>(std::move(called));
  return Put(stream, [once]() -> std::function<bool()> {
    return [once] {
      (*once)();
      return true;
    };
  });
}

/// Whether a stream captures, so that nobody may wait for it or note its place.
bool Captures(cudaStream_t stream) {
  const std::lock_guard lock(TheDevice().mutex);
  return IsStream(stream) && stream->captured.has_value();
}

size_t FreeBytes(int gpu) {
  const size_t used = AllocatedBytes(gpu);
  const size_t bytes = TheGpus().BytesOf(gpu);
  return used < bytes ? bytes - used : 0;
}

cudaError_t Allocate(void** memory, size_t bytes, BufferKind kind) {
  *memory = nullptr;
  if (bytes == 0) return cudaSuccess;
  const int gpu = CurrentGpu();
  if (kind == BufferKind::kPinned || bytes <= FreeBytes(gpu))
    *memory = AllocateBuffer(bytes, kind, gpu);
  return *memory == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}

}  // namespace

void SetSeed(uint64_t seed) { current_seed = seed; }

uint64_t Launches() { return launches; }

uint64_t BytesToHost() { return bytes_to_host; }
uint64_t GraphLaunches() { return graph_launches; }

uint64_t GraphLaunchesAhead(int gpu) {
  const std::lock_guard lock(TheDevice().mutex);
  return graph_launches_ahead[gpu];
}

cudaError_t AllowShared(const void* kernel, int bytes) {
  if (bytes < 0 || static_cast<size_t>(bytes) > TheGpus().shared_bytes)
    return cudaErrorInvalidValue;
  Device& device = TheDevice();
  const std::lock_guard lock(device.mutex);
  device.shared_bytes[kernel] = static_cast<size_t>(bytes);
  return cudaSuccess;
}

cudaError_t Enqueue(const cudaLaunchConfig_t& config, const void* kernel,
                    std::function<void()> thread) {
  if (const int error = NextCall(); error != 0) return static_cast<cudaError_t>(error);
  const dim3& grid = config.gridDim;
  const dim3& block = config.blockDim;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535) {
    return cudaErrorInvalidConfiguration;
  }
  const size_t threads = size_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > kMostThreads) return cudaErrorInvalidConfiguration;
  if (config.dynamicSmemBytes > TheDevice().SharedBytesOf(kernel) ||
      config.dynamicSmemBytes > TheGpus().shared_bytes) {
    return cudaErrorInvalidValue;
  }
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    if (config.attrs[i].id != cudaLaunchAttributeProgrammaticStreamSerialization) {
      return cudaErrorInvalidValue;
    }
  }
  if (config.stream == nullptr || config.stream->gpu != CurrentGpu()) {
    return cudaErrorInvalidResourceHandle;
  }
  // SplitMix, so that neighbouring seeds and launches have nothing in common.
  uint64_t seed = current_seed + ++launches * 0x9E3779B97F4A7C15;
  seed = (seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9;
  seed = (seed ^ (seed >> 27)) * 0x94D049BB133111EB;
  const bool early = config.numAttrs > 0;
  seed ^= seed >> 31;
  return Put(config.stream,
             [config, kernel, early, seed, gpu = CurrentGpu(),
              thread = std::move(thread)]() -> std::function<bool()> {
               auto work = std::make_shared<Grid>(config, kernel, early, seed, thread, gpu);
               return [work] { return work->Advance(); };
             });
}

static std::optional<uint64_t> PlaceOf(cudaStream_t stream) {
  const std::lock_guard lock(TheDevice().mutex);
  if (!IsStream(stream)) return std::nullopt;
  return stream->put;
}

int PutPolled(cudaStream_t stream, std::function<std::function<bool()>()> work) {
  return Put(stream, std::move(work));
}

}  // namespace tandem::cuda_emulation

using tandem::cuda_emulation::Advance;
using tandem::cuda_emulation::Allocate;
using tandem::cuda_emulation::BufferKind;
using tandem::cuda_emulation::Captures;
using tandem::cuda_emulation::CurrentGpu;
using tandem::cuda_emulation::FreeBuffer;
using tandem::cuda_emulation::IsStream;
using tandem::cuda_emulation::PlaceOf;
using tandem::cuda_emulation::Put;
using tandem::cuda_emulation::PutOnce;
using tandem::cuda_emulation::RunAll;
using tandem::cuda_emulation::RunUntil;
using tandem::cuda_emulation::TheDevice;
using tandem::cuda_emulation::TheGpus;

/// Counts a call, and returns if it must fail.
#define TANDEM_COUNT_CALL()                                                 \
  do {                                                                      \
    if (const int error = tandem::cuda_emulation::NextCall(); error != 0) { \
      return static_cast<cudaError_t>(error);                               \
    }                                                                       \
  } while (false)

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorDeviceUninitialized:
      return "invalid device context";
    case cudaErrorMapBufferObjectFailed:
      return "mapping of buffer object failed";
    case cudaErrorPeerAccessUnsupported:
      return "peer access is not supported between these two devices";
    case cudaErrorPeerAccessAlreadyEnabled:
      return "peer access is already enabled";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    case cudaErrorNotReady:
      return "device not ready";
    case cudaErrorLaunchFailure:
      return "unspecified launch failure";
  }
  return "unrecognized error code";
}

cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = TheGpus().driver;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 0;
  if (TheGpus().driver < 13000) return cudaErrorInsufficientDriver;
  if (TheGpus().count == 0) return cudaErrorNoDevice;
  *count = TheGpus().count;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= TheGpus().count) return cudaErrorInvalidDevice;
  *properties = {};
  std::strcpy(properties->name, "Emulated GPU");
  properties->uuid.bytes[0] = static_cast<char>(device + 1);
  properties->totalGlobalMem = TheGpus().BytesOf(device);
  properties->sharedMemPerBlockOptin = TheGpus().shared_bytes;
  properties->major = TheGpus().major;
  properties->multiProcessorCount = TheGpus().processors;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  TANDEM_COUNT_CALL();
  if (device < 0 || device >= TheGpus().count) return cudaErrorInvalidDevice;
  tandem::cuda_emulation::SetCurrentGpu(device);
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = CurrentGpu();
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  TANDEM_COUNT_CALL();
  return Allocate(memory, bytes, BufferKind::kDevice);
}

cudaError_t cudaFree(void* memory) {
  const auto error = static_cast<cudaError_t>(tandem::cuda_emulation::NextCall());
  if (memory == nullptr) return error;
  RunAll(CurrentGpu());
  return FreeBuffer(memory) ? error : cudaErrorInvalidValue;
}

cudaError_t cudaMallocHost(void** memory, size_t bytes) {
  TANDEM_COUNT_CALL();
  return Allocate(memory, bytes, BufferKind::kPinned);
}
cudaError_t cudaFreeHost(void* memory) { return cudaFree(memory); }

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  TANDEM_COUNT_CALL();
  *free = tandem::cuda_emulation::FreeBytes(CurrentGpu());
  *total = TheGpus().BytesOf(CurrentGpu());
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  TANDEM_COUNT_CALL();
  if (kind == cudaMemcpyDeviceToHost) tandem::cuda_emulation::bytes_to_host += bytes;
  {
    const std::lock_guard lock(TheDevice().mutex);
    if (IsStream(stream)) {
      stream->copied_seconds +=
          static_cast<double>(bytes) / static_cast<double>(TheGpus().SpeedOf(stream->gpu));
    }
  }
  return PutOnce(stream, [=] { std::memcpy(to, from, bytes); });
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  TANDEM_COUNT_CALL();
  if (stream->gpu != CurrentGpu()) return cudaErrorInvalidResourceHandle;
  return PutOnce(stream, [=] { std::memset(to, value, bytes); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  TANDEM_COUNT_CALL();
  *stream = new CUstream_st;
  (*stream)->gpu = CurrentGpu();
  auto& device = TheDevice();
  const std::lock_guard lock(device.mutex);
  device.streams.insert(*stream);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const auto error = static_cast<cudaError_t>(tandem::cuda_emulation::NextCall());
  const auto place = PlaceOf(stream);
  if (!place.has_value()) return cudaErrorInvalidValue;
  RunUntil(stream, *place);
  auto& device = TheDevice();
  const std::lock_guard lock(device.mutex);
  device.streams.erase(stream);
  delete stream;
  return error;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  TANDEM_COUNT_CALL();
  if (Captures(stream)) return cudaErrorStreamCaptureUnsupported;
  const auto place = PlaceOf(stream);
  if (!place.has_value()) return cudaErrorInvalidValue;
  RunUntil(stream, *place);
  return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  TANDEM_COUNT_CALL();
  if (Captures(stream)) return cudaErrorStreamCaptureUnsupported;
  const std::lock_guard lock(TheDevice().mutex);
  if (!IsStream(stream)) return cudaErrorInvalidValue;
  return Advance(stream, stream->put) ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  TANDEM_COUNT_CALL();
  if (event->stream == nullptr) return cudaSuccess;  // as never recorded
  return Put(stream, [from = event->stream, place = event->place]() -> std::function<bool()> {
    return [from, place] { return !IsStream(from) || Advance(from, place); };
  });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  TANDEM_COUNT_CALL();
  *event = new CUevent_st;
  (*event)->gpu = CurrentGpu();
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return static_cast<cudaError_t>(tandem::cuda_emulation::NextCall());
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  TANDEM_COUNT_CALL();
  auto& device = TheDevice();
  const std::lock_guard lock(device.mutex);
  if (event->gpu != stream->gpu) return cudaErrorInvalidResourceHandle;
  // A place in a graph is none that the project waits for.
  if (stream->captured.has_value()) return cudaErrorStreamCaptureUnsupported;
  event->stream = stream;
  event->place = stream->put;
  event->copied_seconds = stream->copied_seconds;
  return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  TANDEM_COUNT_CALL();
  if (from->stream == nullptr || from->stream != to->stream) return cudaErrorInvalidResourceHandle;
  *milliseconds = static_cast<float>(1e3 * (to->copied_seconds - from->copied_seconds));
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  TANDEM_COUNT_CALL();
  RunUntil(event->stream, event->place);
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  TANDEM_COUNT_CALL();
  const std::lock_guard lock(TheDevice().mutex);
  if (event->stream == nullptr || !IsStream(event->stream)) return cudaSuccess;
  return Advance(event->stream, event->place) ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  TANDEM_COUNT_CALL();
  const std::lock_guard lock(TheDevice().mutex);
  if (!IsStream(stream) || stream->captured.has_value()) return cudaErrorInvalidValue;
  stream->captured.emplace();
  stream->captured->gpu = stream->gpu;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  TANDEM_COUNT_CALL();
  const std::lock_guard lock(TheDevice().mutex);
  if (!IsStream(stream) || !stream->captured.has_value()) return cudaErrorInvalidValue;
  *graph = new CUgraph_st(*std::move(stream->captured));
  stream->captured.reset();
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* graph, cudaGraph_t of, unsigned long long) {
  TANDEM_COUNT_CALL();
  *graph = new CUgraphExec_st{*of};
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  TANDEM_COUNT_CALL();
  if (graph->graph.gpu != stream->gpu) return cudaErrorInvalidResourceHandle;
  ++tandem::cuda_emulation::graph_launches;
  const std::lock_guard lock(TheDevice().mutex);
  if (stream->done < stream->last_graph) {
    ++tandem::cuda_emulation::graph_launches_ahead[stream->gpu];
  }
  for (const Work& work : graph->graph.works) {
    if (const cudaError_t error = Put(stream, work); error != cudaSuccess) return error;
  }
  stream->last_graph = stream->put;
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return static_cast<cudaError_t>(tandem::cuda_emulation::NextCall());
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete graph;
  return static_cast<cudaError_t>(tandem::cuda_emulation::NextCall());
}
