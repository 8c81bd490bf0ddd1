#pragma once

#include <array>
#include <memory>
#include <span>
#include <vector>

#include "core/base/mutex.h"
#include "core/cuda/kernels/cuda_stream.h"
#include "core/cuda/kernels/gpu.h"
#include "core/model/device_memory.h"

struct CUevent_st;

namespace tandem::core {

/// Copies between a GPU and pinned memory that go on beside its kernels: a stream for each
/// direction. Source: CUDA C++ Programming Guide 13.0, "Asynchronous Concurrent Execution".
/// Thread safety: all methods. Failures of CUDA throw DeviceFailure.
class CudaCopies {
 public:
  /// kernels: the stream of the GPU's kernels, which must outlive it.
  CudaCopies(Gpu gpu, CudaStream kernels);
  ~CudaCopies();
  CudaCopies(const CudaCopies&) = delete;
  CudaCopies& operator=(const CudaCopies&) = delete;

  /// As DeviceMemory::BeginCopy.
  std::shared_ptr<DeviceCopy> Begin(CopyDirection direction, std::span<const CopyRun> runs);

  /// While kernels are captured, nobody may look where their stream is: no copies begin between.
  void Pause() ABSL_NO_THREAD_SAFETY_ANALYSIS { mutex_.Lock(); }
  void GoOn() ABSL_NO_THREAD_SAFETY_ANALYSIS { mutex_.Unlock(); }

 private:
  class Copy;
  struct Stream {
    CudaStream stream = nullptr;
    CUevent_st* last = nullptr;  // of the copies that were begun
  };
  CUevent_st* TakeEvent() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Gpu gpu_;
  const CudaStream kernels_;
  Mutex mutex_;
  std::array<Stream, 2> streams_ ABSL_GUARDED_BY(mutex_);  // by CopyDirection
  CUevent_st* enqueued_ ABSL_GUARDED_BY(mutex_) = nullptr;
  Mutex events_mutex_;
  std::vector<CUevent_st*> unused_ ABSL_GUARDED_BY(events_mutex_);
};

}  // namespace tandem::core
