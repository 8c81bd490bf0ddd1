#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/functional/function_ref.h"
#include "core/base/mutex.h"
#include "core/cuda/copies/cuda_copies.h"
#include "core/cuda/copies/cuda_pinned_memory.h"
#include "core/cuda/kernels/cuda_stream.h"
#include "core/cuda/kernels/gpu.h"
#include "core/model/device_memory.h"

struct CUevent_st;
struct CUgraph_st;

namespace tandem::core {

/// The memory of one GPU. Copies go through pinned staging on a stream of their own, which first
/// waits for what was put into stream() before. Thread safety: as DeviceMemory has it; but what
/// another thread puts into stream() meanwhile may or may not come before a copy. A thread that
/// calls any method uses this GPU from then on (UseGpu). What is freed after the GPU has failed is
/// left to the end of the process.
class CudaMemory final : public DeviceMemory {
 public:
  explicit CudaMemory(Gpu gpu = {});
  ~CudaMemory() override;

  const Gpu& gpu() const { return gpu_; }
  /// Where kernels are put.
  CudaStream stream() const {
    UseGpu(gpu_);
    return stream_;
  }

  /// From now on what is put into stream() is not done but captured. Copies of other threads wait
  /// until EndCapture, and Uploads do not go into the stream, but are there when it goes on. Throws
  /// DeviceFailure.
  void BeginCapture() ABSL_NO_THREAD_SAFETY_ANALYSIS;
  /// What was captured; the caller destroys it. Throws DeviceFailure.
  CUgraph_st* EndCapture() ABSL_NO_THREAD_SAFETY_ANALYSIS;
  /// Ends a capture whose kernels are not wanted.
  void AbandonCapture() noexcept ABSL_NO_THREAD_SAFETY_ANALYSIS;
  /// How often Allocate was called.
  uint64_t allocations() const { return allocations_; }

  /// Throws DeviceFailure if there is no memory.
  std::shared_ptr<std::byte> Allocate(int64_t bytes) override;
  absl::StatusOr<std::shared_ptr<std::byte>> AllocateZeroed(int64_t bytes) override;
  absl::StatusOr<int64_t> AvailableBytes() const override;
  absl::Status CopyToHost(std::span<const CopyRun> runs) override;
  /// The same, where what is in stream() needs other ranks: wait(done) returns once done() is true,
  /// or with an error, after which nothing was copied.
  using WaitFor = absl::FunctionRef<absl::Status(absl::FunctionRef<bool()> done)>;
  absl::Status CopyToHost(std::span<const CopyRun> runs, WaitFor wait);
  absl::Status CopyFromHost(std::span<const CopyRun> runs) override;
  absl::Status CopyWithin(std::byte* to, const std::byte* from, size_t bytes) override;
  DeviceMemory& host() override { return host_; }
  bool copies_beside() const override { return true; }
  absl::StatusOr<std::shared_ptr<DeviceCopy>> BeginCopy(CopyDirection direction,
                                                        std::span<const CopyRun> runs) override;

 private:
  /// The copy stream waits for what is in stream() now.
  void FollowKernels() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  friend class Upload;
  /// Where uploads go.
  CudaStream upload_stream() const ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return capturing_ ? copy_stream_ : stream();
  }

  const Gpu gpu_;
  std::atomic<uint64_t> allocations_ = 0;
  bool capturing_ = false;  // of the thread that puts kernels into the stream
  CudaStream stream_ = nullptr;
  Mutex mutex_;  // one thread copies
  CudaStream copy_stream_ ABSL_GUARDED_BY(mutex_) = nullptr;
  CUevent_st* kernels_ ABSL_GUARDED_BY(mutex_) = nullptr;
  PinnedBytes staging_ ABSL_GUARDED_BY(mutex_);
  CudaPinnedMemory host_;
  std::unique_ptr<CudaCopies> copies_;  // beside kernels
};

/// Bytes that the host gives to kernels, step after step, without waiting for the GPU: they lie in
/// pinned memory until they are across. Thread safety: one thread calls.
class Upload {
 public:
  explicit Upload(CudaMemory& memory);
  ~Upload();
  Upload(const Upload&) = delete;
  Upload& operator=(const Upload&) = delete;

  /// Room for `bytes` to be written by the host. Waits until the upload before is across.
  std::byte* Begin(size_t bytes);
  /// Puts a copy of the first `bytes` of them into the memory's stream.
  void Send(size_t bytes, std::byte* device);

 private:
  CudaMemory& memory_;
  PinnedBytes pinned_;
  size_t capacity_ = 0;
  CUevent_st* across_ = nullptr;
};

}  // namespace tandem::core
