#include "core/cuda/copies/cuda_kept_flags.h"

#include <cuda_runtime.h>

#include "core/base/check.h"
#include "core/cuda/kernels/launch.h"

namespace tandem::core {

CudaKeptFlags::CudaKeptFlags() {
  for (Flags& flags : steps_) {
    CheckCuda(cudaEventCreateWithFlags(&flags.copied, cudaEventDisableTiming), "cudaEventCreate");
  }
}

CudaKeptFlags::~CudaKeptFlags() {
  // A GPU that failed has told so.
  for (Flags& flags : steps_) static_cast<void>(cudaEventDestroy(flags.copied));
}

void CudaKeptFlags::Keep(const uint8_t* flags, size_t count, CudaStream stream) {
  TANDEM_CHECK(kept_ < 2, "the flags of two steps are kept already");
  Flags& next = steps_[(oldest_ + kept_) % steps_.size()];
  if (count > next.capacity) {
    next.capacity = 0;
    next.bytes = AllocatePinned(count);
    next.capacity = count;
  }
  next.count = count;
  CheckCuda(cudaMemcpyAsync(next.bytes.get(), flags, count, cudaMemcpyDeviceToHost, stream),
            "cudaMemcpyAsync");
  CheckCuda(cudaEventRecord(next.copied, stream), "cudaEventRecord");
  ++kept_;
}

std::span<const uint8_t> CudaKeptFlags::Take() {
  TANDEM_CHECK(kept_ > 0, "no flags are kept");
  Flags& flags = steps_[oldest_];
  CheckCuda(cudaEventSynchronize(flags.copied), "the step");
  oldest_ = (oldest_ + 1) % steps_.size();
  --kept_;
  return {reinterpret_cast<const uint8_t*>(flags.bytes.get()), flags.count};
}

}  // namespace tandem::core
