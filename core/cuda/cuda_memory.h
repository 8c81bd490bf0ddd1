#pragma once

#include <array>
#include <atomic>
#include <chrono>
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
  /// Whether uploads go on beside the kernels that are in stream() already.
  void SendBeside(bool beside) { beside_ = beside; }
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
  /// Waits until what is in stream() is done, without sleeping. health() is asked now and then, and
  /// at the end; its error is returned. kDeadlineExceeded after `patience`.
  absl::Status WaitForKernels(
      std::chrono::milliseconds patience,
      absl::FunctionRef<absl::Status()> health = [] { return absl::OkStatus(); });
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
  /// Where uploads go that do not go beside kernels.
  CudaStream upload_stream() const ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return capturing_ ? copy_stream_ : stream();
  }

  /// On the GPU, where uploads land: no kernel knows it. Throws DeviceFailure.
  static std::shared_ptr<std::byte> AllocateLanding(size_t bytes);

  const Gpu gpu_;
  std::atomic<uint64_t> allocations_ = 0;
  bool capturing_ = false;  // of the thread that puts kernels into the stream
  bool beside_ = false;     // the same
  CudaStream stream_ = nullptr;
  CudaStream beside_stream_ = nullptr;  // of uploads beside kernels
  Mutex mutex_;                         // one thread copies
  CudaStream copy_stream_ ABSL_GUARDED_BY(mutex_) = nullptr;
  CUevent_st* kernels_ ABSL_GUARDED_BY(mutex_) = nullptr;
  PinnedBytes staging_ ABSL_GUARDED_BY(mutex_);
  CudaPinnedMemory host_;
  std::unique_ptr<CudaCopies> copies_;  // beside kernels
};

/// Bytes that the host gives to kernels, step after step, without waiting for the GPU: they lie in
/// pinned memory until they are across. Both of it and of where they land on the GPU there are two,
/// for the step that is computed and the next one; the place where kernels read them is always the
/// same. Thread safety: one thread calls.
class Upload {
 public:
  explicit Upload(CudaMemory& memory);
  ~Upload();
  Upload(const Upload&) = delete;
  Upload& operator=(const Upload&) = delete;

  /// Room for `bytes` to be written by the host. Waits until the upload before the last is across.
  std::byte* Begin(size_t bytes);
  /// Puts a copy of the first `bytes` of them into the memory's stream. Beside kernels (SendBeside)
  /// they go to the GPU while these run, and only from there to their place when these are done.
  void Send(size_t bytes, std::byte* device);

 private:
  struct Side {
    PinnedBytes pinned;
    size_t capacity = 0;
    CUevent_st* across = nullptr;
    std::shared_ptr<std::byte> landed;  // on the GPU
    size_t landed_capacity = 0;
    CUevent_st* read = nullptr;  // what has landed is in its place
  };
  void SendBeside(Side& side, size_t bytes, std::byte* device);

  CudaMemory& memory_;
  std::array<Side, 2> sides_;
  size_t side_ = 0;
};

}  // namespace tandem::core
