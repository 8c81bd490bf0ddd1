#include "core/cuda/copies/cuda_copies.h"

#include <cuda_runtime.h>

#include <utility>

#include "core/cuda/kernels/launch.h"
#include "core/model/device_status.h"

namespace tandem::core {
namespace {

/// For what ends: a GPU that failed has told so, and what it held ends with the process.
void Ignore(cudaError_t) {}

CUevent_st* NewEvent() {
  CUevent_st* event = nullptr;
  CheckCuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
  return event;
}

}  // namespace

/// Its event comes behind the copies.
class CudaCopies::Copy final : public DeviceCopy {
 public:
  Copy(CudaCopies& copies, CUevent_st* done) : copies_(copies), done_(done) {}
  ~Copy() override {
    const MutexLock lock(copies_.events_mutex_);
    copies_.unused_.push_back(done_);
  }

  absl::Status Wait() override {
    return WithDeviceFailures([this] {
      UseGpu(copies_.gpu_);
      CheckCuda(cudaEventSynchronize(done_), "a copy of pages");
    });
  }
  absl::Status ComeFirst() override {
    return WithDeviceFailures([this] {
      UseGpu(copies_.gpu_);
      CheckCuda(cudaStreamWaitEvent(copies_.kernels_, done_, 0), "cudaStreamWaitEvent");
    });
  }

 private:
  friend class CudaCopies;
  CudaCopies& copies_;
  CUevent_st* const done_;
};

CudaCopies::CudaCopies(Gpu gpu, CudaStream kernels) : gpu_(std::move(gpu)), kernels_(kernels) {
  UseGpu(gpu_);
  enqueued_ = NewEvent();
  for (Stream& stream : streams_) {
    CheckCuda(cudaStreamCreateWithFlags(&stream.stream, cudaStreamNonBlocking), "cudaStreamCreate");
    stream.last = NewEvent();
  }
}

CudaCopies::~CudaCopies() {
  for (const Stream& stream : streams_) {
    Ignore(cudaStreamDestroy(stream.stream));
    Ignore(cudaEventDestroy(stream.last));
  }
  Ignore(cudaEventDestroy(enqueued_));
  for (CUevent_st* event : unused_) Ignore(cudaEventDestroy(event));
}

CUevent_st* CudaCopies::TakeEvent() {
  {
    const MutexLock lock(events_mutex_);
    if (!unused_.empty()) {
      CUevent_st* event = unused_.back();
      unused_.pop_back();
      return event;
    }
  }
  return NewEvent();
}

std::shared_ptr<DeviceCopy> CudaCopies::Begin(CopyDirection direction,
                                              std::span<const CopyRun> runs) {
  UseGpu(gpu_);
  const MutexLock lock(mutex_);
  const auto index = static_cast<size_t>(direction);
  Stream& own = streams_[index];
  const auto copy = std::make_shared<Copy>(*this, TakeEvent());
  CheckCuda(cudaEventRecord(enqueued_, kernels_), "cudaEventRecord");
  CheckCuda(cudaStreamWaitEvent(own.stream, enqueued_, 0), "cudaStreamWaitEvent");
  // What is written here, the other direction may still read.
  CheckCuda(cudaStreamWaitEvent(own.stream, streams_[1 - index].last, 0), "cudaStreamWaitEvent");
  for (const CopyRun& run : runs) {
    const bool to_host = direction == CopyDirection::kToHost;
    CheckCuda(
        cudaMemcpyAsync(to_host ? run.host : run.device, to_host ? run.device : run.host, run.bytes,
                        to_host ? cudaMemcpyDeviceToHost : cudaMemcpyHostToDevice, own.stream),
        "cudaMemcpyAsync");
  }
  CheckCuda(cudaEventRecord(copy->done_, own.stream), "cudaEventRecord");
  CheckCuda(cudaEventRecord(own.last, own.stream), "cudaEventRecord");
  return copy;
}

}  // namespace tandem::core
