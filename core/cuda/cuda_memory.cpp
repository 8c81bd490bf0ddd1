#include "core/cuda/cuda_memory.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/cuda/kernels/launch.h"

namespace tandem::core {
namespace {

constexpr size_t kStagingBytes = size_t{4} << 20;

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
  const cudaError_t error = cudaMalloc(&memory, static_cast<size_t>(bytes));
  if (error == cudaErrorMemoryAllocation) return nullptr;
  CheckCuda(error, "cudaMalloc");
  return static_cast<std::byte*>(memory);
}

std::shared_ptr<std::byte> Owned(std::byte* memory) {
  return {memory, [](std::byte* p) { CheckCuda(cudaFree(p), "cudaFree"); }};
}

}  // namespace

void FreePinned::operator()(std::byte* memory) const {
  CheckCuda(cudaFreeHost(memory), "cudaFreeHost");
}

PinnedBytes AllocatePinned(size_t bytes) {
  void* memory = nullptr;
  CheckCuda(cudaMallocHost(&memory, bytes), "cudaMallocHost");
  return PinnedBytes(static_cast<std::byte*>(memory));
}

CudaMemory::CudaMemory() : staging_(AllocatePinned(kStagingBytes)) {
  CheckCuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  CheckCuda(cudaStreamCreateWithFlags(&copy_stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  CheckCuda(cudaEventCreateWithFlags(&kernels_, cudaEventDisableTiming), "cudaEventCreate");
}

CudaMemory::~CudaMemory() {
  CheckCuda(cudaEventDestroy(kernels_), "cudaEventDestroy");
  CheckCuda(cudaStreamDestroy(copy_stream_), "cudaStreamDestroy");
  CheckCuda(cudaStreamDestroy(stream_), "cudaStreamDestroy");
}

std::shared_ptr<std::byte> CudaMemory::Allocate(int64_t bytes) {
  std::byte* memory = AllocateOnDevice(bytes);
  if (memory == nullptr && bytes > 0) CheckCuda(cudaErrorMemoryAllocation, "cudaMalloc");
  return Owned(memory);
}

absl::StatusOr<std::shared_ptr<std::byte>> CudaMemory::AllocateZeroed(int64_t bytes) {
  std::byte* memory = AllocateOnDevice(bytes);
  if (memory == nullptr && bytes > 0) {
    return ResourceExhausted("{} bytes of GPU memory were asked for, and {} are left", bytes,
                             AvailableBytes());
  }
  if (bytes > 0) {
    const MutexLock lock(mutex_);
    CheckCuda(cudaMemsetAsync(memory, 0, static_cast<size_t>(bytes), copy_stream_), "cudaMemset");
    CheckCuda(cudaStreamSynchronize(copy_stream_), "cudaMemset");
  }
  return Owned(memory);
}

int64_t CudaMemory::AvailableBytes() const {
  size_t free = 0;
  size_t total = 0;
  CheckCuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return static_cast<int64_t>(free);
}

void CudaMemory::FollowKernels() {
  CheckCuda(cudaEventRecord(kernels_, stream_), "cudaEventRecord");
  CheckCuda(cudaStreamWaitEvent(copy_stream_, kernels_, 0), "cudaStreamWaitEvent");
}

void CudaMemory::CopyToHost(std::span<const CopyRun> runs) {
  const MutexLock lock(mutex_);
  FollowKernels();
  std::byte* staging = staging_.get();
  CudaStream stream = copy_stream_;
  struct Waiting {
    std::byte* to;
    size_t at;
    size_t bytes;
  };
  std::vector<Waiting> waiting;
  ForStagedPieces(
      runs,
      [&](const CopyRun& run, size_t offset, size_t bytes, size_t at) {
        CheckCuda(cudaMemcpyAsync(staging + at, run.device + offset, bytes, cudaMemcpyDeviceToHost,
                                  stream),
                  "cudaMemcpyAsync");
        waiting.push_back({run.host + offset, at, bytes});
      },
      [&] {
        CheckCuda(cudaStreamSynchronize(stream), "a copy from the GPU");
        for (const Waiting& piece : waiting) std::memcpy(piece.to, staging + piece.at, piece.bytes);
        waiting.clear();
      });
}

void CudaMemory::CopyFromHost(std::span<const CopyRun> runs) {
  const MutexLock lock(mutex_);
  FollowKernels();
  std::byte* staging = staging_.get();
  CudaStream stream = copy_stream_;
  ForStagedPieces(
      runs,
      [&](const CopyRun& run, size_t offset, size_t bytes, size_t at) {
        std::memcpy(staging + at, run.host + offset, bytes);
        CheckCuda(cudaMemcpyAsync(run.device + offset, staging + at, bytes, cudaMemcpyHostToDevice,
                                  stream),
                  "cudaMemcpyAsync");
      },
      [&] { CheckCuda(cudaStreamSynchronize(stream), "a copy to the GPU"); });
}

void CudaMemory::CopyWithin(std::byte* to, const std::byte* from, size_t bytes) {
  const MutexLock lock(mutex_);
  FollowKernels();
  CheckCuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, copy_stream_),
            "cudaMemcpyAsync");
  CheckCuda(cudaStreamSynchronize(copy_stream_), "a copy within the GPU");
}

Upload::Upload(CudaMemory& memory) : memory_(memory) {
  CheckCuda(cudaEventCreateWithFlags(&across_, cudaEventDisableTiming), "cudaEventCreate");
}

Upload::~Upload() { CheckCuda(cudaEventDestroy(across_), "cudaEventDestroy"); }

std::byte* Upload::Begin(size_t bytes) {
  CheckCuda(cudaEventSynchronize(across_), "an upload to the GPU");
  if (bytes > capacity_) {
    pinned_.reset();
    pinned_ = AllocatePinned(bytes);
    capacity_ = bytes;
  }
  return pinned_.get();
}

void Upload::Send(size_t bytes, std::byte* device) {
  if (bytes == 0) return;
  CheckCuda(cudaMemcpyAsync(device, pinned_.get(), bytes, cudaMemcpyHostToDevice, memory_.stream()),
            "cudaMemcpyAsync");
  CheckCuda(cudaEventRecord(across_, memory_.stream()), "cudaEventRecord");
}

}  // namespace tandem::core
