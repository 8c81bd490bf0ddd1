#include "core/cuda/cuda_memory.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "core/cuda/kernels/launch.h"
#include "core/model/device_status.h"

namespace tandem::core {
namespace {

constexpr size_t kStagingBytes = size_t{4} << 20;
constexpr std::chrono::milliseconds kHealthPause{5};  // between questions how a link is

/// Splits runs into pieces that fill the staging memory, again and again: piece(run, offset, bytes,
/// place in the staging) for each, and end() whenever it is full, and at the end.
template <typename Piece, typename End>
void ForStagedPieces(std::span<const CopyRun> runs, const Piece& piece, const End& end) {
  size_t filled = 0;
  for (const CopyRun& run : runs) {
    for (size_t offset = 0; offset < run.bytes;) {
      const size_t bytes = std::min(run.bytes - offset, kStagingBytes - filled);
      piece(run, offset, bytes, filled);
      offset += bytes;
      filled += bytes;
      if (filled < kStagingBytes) continue;
      end();
      filled = 0;
    }
  }
  if (filled > 0) end();
}

/// Null if there is no memory.
std::byte* AllocateOnDevice(int64_t bytes) {
  void* memory = nullptr;
  if (bytes == 0) return nullptr;
  const cudaError_t error = cudaMalloc(&memory, static_cast<size_t>(bytes));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // or a launch would tell of it
    return nullptr;
  }
  CheckCuda(error, "cudaMalloc");
  return static_cast<std::byte*>(memory);
}

bool IsDone(CudaStream stream, const char* what) {
  const cudaError_t error = cudaStreamQuery(stream);
  if (error == cudaErrorNotReady) return false;
  CheckCuda(error, what);
  return true;
}

/// For what ends: a GPU that failed has told so, and what it held ends with the process.
void Ignore(cudaError_t) {}

std::shared_ptr<std::byte> Owned(std::byte* memory) {
  return {memory, [](std::byte* p) { Ignore(cudaFree(p)); }};
}

}  // namespace

CudaMemory::CudaMemory(Gpu gpu) : gpu_(std::move(gpu)), host_(gpu_) {
  UseGpu(gpu_);
  staging_ = AllocatePinned(kStagingBytes);
  CheckCuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  CheckCuda(cudaStreamCreateWithFlags(&copy_stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  CheckCuda(cudaStreamCreateWithFlags(&beside_stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  CheckCuda(cudaEventCreateWithFlags(&kernels_, cudaEventDisableTiming), "cudaEventCreate");
  copies_ = std::make_unique<CudaCopies>(gpu_, stream_);
}

CudaMemory::~CudaMemory() {
  copies_.reset();
  Ignore(cudaEventDestroy(kernels_));
  Ignore(cudaStreamDestroy(beside_stream_));
  Ignore(cudaStreamDestroy(copy_stream_));
  Ignore(cudaStreamDestroy(stream_));
}

void CudaMemory::BeginCapture() {
  mutex_.Lock();
  copies_->Pause();
  try {
    // What is uploaded meanwhile replaces what kernels before may still read.
    FollowKernels();
    CheckCuda(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed),
              "cudaStreamBeginCapture");
  } catch (...) {
    copies_->GoOn();
    mutex_.Unlock();
    throw;
  }
  capturing_ = true;
}

CUgraph_st* CudaMemory::EndCapture() {
  capturing_ = false;
  CUgraph_st* captured = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream_, &captured);
  // What was uploaded meanwhile is there when the stream goes on.
  const cudaError_t recorded = cudaEventRecord(kernels_, copy_stream_);
  const cudaError_t waits = cudaStreamWaitEvent(stream_, kernels_, 0);
  copies_->GoOn();
  mutex_.Unlock();
  CheckCuda(ended, "cudaStreamEndCapture");
  CheckCuda(recorded, "cudaEventRecord");
  CheckCuda(waits, "cudaStreamWaitEvent");
  return captured;
}

void CudaMemory::AbandonCapture() noexcept {
  capturing_ = false;
  CUgraph_st* captured = nullptr;
  Ignore(cudaStreamEndCapture(stream_, &captured));
  if (captured != nullptr) Ignore(cudaGraphDestroy(captured));
  copies_->GoOn();
  mutex_.Unlock();
}

std::shared_ptr<std::byte> CudaMemory::AllocateLanding(size_t bytes) {
  std::byte* memory = AllocateOnDevice(static_cast<int64_t>(bytes));
  if (memory == nullptr && bytes > 0) CheckCuda(cudaErrorMemoryAllocation, "cudaMalloc");
  return Owned(memory);
}

std::shared_ptr<std::byte> CudaMemory::Allocate(int64_t bytes) {
  UseGpu(gpu_);
  ++allocations_;
  std::byte* memory = AllocateOnDevice(bytes);
  if (memory == nullptr && bytes > 0) CheckCuda(cudaErrorMemoryAllocation, "cudaMalloc");
  return Owned(memory);
}

absl::StatusOr<std::shared_ptr<std::byte>> CudaMemory::AllocateZeroed(int64_t bytes) {
  return WithDeviceFailures([&]() -> absl::StatusOr<std::shared_ptr<std::byte>> {
    UseGpu(gpu_);
    std::shared_ptr<std::byte> memory = Owned(AllocateOnDevice(bytes));
    if (memory == nullptr && bytes > 0) {
      TANDEM_ASSIGN_OR_RETURN(const int64_t left, AvailableBytes());
      return ResourceExhausted("{} bytes of GPU memory were asked for, and {} are left", bytes,
                               left);
    }
    if (bytes > 0) {
      const MutexLock lock(mutex_);
      CheckCuda(cudaMemsetAsync(memory.get(), 0, static_cast<size_t>(bytes), copy_stream_),
                "cudaMemsetAsync");
      CheckCuda(cudaStreamSynchronize(copy_stream_), "cudaMemsetAsync");
    }
    return memory;
  });
}

absl::StatusOr<int64_t> CudaMemory::AvailableBytes() const {
  return WithDeviceFailures([&]() -> absl::StatusOr<int64_t> {
    UseGpu(gpu_);
    size_t free = 0;
    size_t total = 0;
    CheckCuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return static_cast<int64_t>(free);
  });
}

void CudaMemory::FollowKernels() {
  UseGpu(gpu_);
  CheckCuda(cudaEventRecord(kernels_, stream_), "cudaEventRecord");
  CheckCuda(cudaStreamWaitEvent(copy_stream_, kernels_, 0), "cudaStreamWaitEvent");
}

absl::Status CudaMemory::CopyToHost(std::span<const CopyRun> runs) {
  return CopyToHost(runs, [this](absl::FunctionRef<bool()>) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    CheckCuda(cudaStreamSynchronize(copy_stream_), "a copy from the GPU");
    return absl::OkStatus();
  });
}

absl::Status CudaMemory::CopyToHost(std::span<const CopyRun> runs, WaitFor wait) {
  struct Waiting {
    std::byte* to;
    size_t at;
    size_t bytes;
  };
  return WithDeviceFailures([&] {
    const MutexLock lock(mutex_);
    FollowKernels();
    std::byte* staging = staging_.get();
    CudaStream stream = copy_stream_;
    std::vector<Waiting> waiting;
    ForStagedPieces(
        runs,
        [&](const CopyRun& run, size_t offset, size_t bytes, size_t at) {
          CheckCuda(cudaMemcpyAsync(staging + at, run.device + offset, bytes,
                                    cudaMemcpyDeviceToHost, stream),
                    "cudaMemcpyAsync");
          waiting.push_back({run.host + offset, at, bytes});
        },
        [&] {
          ThrowDeviceFailure(wait([stream] { return IsDone(stream, "a copy from the GPU"); }));
          for (const Waiting& piece : waiting) {
            std::memcpy(piece.to, staging + piece.at, piece.bytes);
          }
          waiting.clear();
        });
  });
}

absl::Status CudaMemory::WaitForKernels(std::chrono::milliseconds patience,
                                        absl::FunctionRef<absl::Status()> health) {
  using Clock = std::chrono::steady_clock;
  return WithDeviceFailures([&]() -> absl::Status {
    CudaStream stream = this->stream();
    const auto end = Clock::now() + patience;
    auto asked = Clock::now();
    while (!IsDone(stream, "a kernel")) {
      std::this_thread::yield();
      if (Clock::now() - asked < kHealthPause) continue;
      asked = Clock::now();
      TANDEM_RETURN_IF_ERROR(health());
      if (asked > end) {
        return absl::DeadlineExceededError(fmt::format(
            "GPU {}: its kernels did not end within {} ms", gpu_.index, patience.count()));
      }
    }
    return health();
  });
}

absl::Status CudaMemory::CopyFromHost(std::span<const CopyRun> runs) {
  return WithDeviceFailures([&] {
    const MutexLock lock(mutex_);
    FollowKernels();
    std::byte* staging = staging_.get();
    CudaStream stream = copy_stream_;
    ForStagedPieces(
        runs,
        [&](const CopyRun& run, size_t offset, size_t bytes, size_t at) {
          std::memcpy(staging + at, run.host + offset, bytes);
          CheckCuda(cudaMemcpyAsync(run.device + offset, staging + at, bytes,
                                    cudaMemcpyHostToDevice, stream),
                    "cudaMemcpyAsync");
        },
        [&] { CheckCuda(cudaStreamSynchronize(stream), "a copy to the GPU"); });
  });
}

absl::Status CudaMemory::CopyWithin(std::byte* to, const std::byte* from, size_t bytes) {
  return WithDeviceFailures([&] {
    const MutexLock lock(mutex_);
    FollowKernels();
    CheckCuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, copy_stream_),
              "cudaMemcpyAsync");
    CheckCuda(cudaStreamSynchronize(copy_stream_), "a copy within the GPU");
  });
}

absl::StatusOr<std::shared_ptr<DeviceCopy>> CudaMemory::BeginCopy(CopyDirection direction,
                                                                  std::span<const CopyRun> runs) {
  return WithDeviceFailures([&]() -> absl::StatusOr<std::shared_ptr<DeviceCopy>> {
    return copies_->Begin(direction, runs);
  });
}

Upload::Upload(CudaMemory& memory) : memory_(memory) {
  UseGpu(memory_.gpu());
  for (Side& side : sides_) {
    for (CUevent_st** event : {&side.across, &side.read}) {
      CheckCuda(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "cudaEventCreate");
    }
  }
}

Upload::~Upload() {
  for (Side& side : sides_) {
    Ignore(cudaEventDestroy(side.across));
    Ignore(cudaEventDestroy(side.read));
  }
}

std::byte* Upload::Begin(size_t bytes) {
  UseGpu(memory_.gpu());
  side_ = 1 - side_;
  Side& side = sides_[side_];
  CheckCuda(cudaEventSynchronize(side.across), "an upload to the GPU");
  if (bytes > side.capacity) {
    side.capacity = 0;
    side.pinned.reset();
    side.pinned = AllocatePinned(bytes);
    side.capacity = bytes;
  }
  return side.pinned.get();
}

void Upload::Send(size_t bytes, std::byte* device) {
  if (bytes == 0) return;
  Side& side = sides_[side_];
  if (memory_.beside_ && !memory_.capturing_) return SendBeside(side, bytes, device);
  CheckCuda(cudaMemcpyAsync(device, side.pinned.get(), bytes, cudaMemcpyHostToDevice,
                            memory_.upload_stream()),
            "cudaMemcpyAsync");
  CheckCuda(cudaEventRecord(side.across, memory_.upload_stream()), "cudaEventRecord");
}

void Upload::SendBeside(Side& side, size_t bytes, std::byte* device) {
  const CudaStream kernels = memory_.stream();
  const CudaStream beside = memory_.beside_stream_;
  if (bytes > side.landed_capacity) {
    side.landed_capacity = 0;
    side.landed.reset();
    side.landed = memory_.AllocateLanding(bytes);
    side.landed_capacity = bytes;
  }
  CheckCuda(cudaStreamWaitEvent(beside, side.read, 0), "cudaStreamWaitEvent");
  CheckCuda(
      cudaMemcpyAsync(side.landed.get(), side.pinned.get(), bytes, cudaMemcpyHostToDevice, beside),
      "cudaMemcpyAsync");
  CheckCuda(cudaEventRecord(side.across, beside), "cudaEventRecord");
  CheckCuda(cudaStreamWaitEvent(kernels, side.across, 0), "cudaStreamWaitEvent");
  CheckCuda(cudaMemcpyAsync(device, side.landed.get(), bytes, cudaMemcpyDeviceToDevice, kernels),
            "cudaMemcpyAsync");
  CheckCuda(cudaEventRecord(side.read, kernels), "cudaEventRecord");
}

}  // namespace tandem::core
