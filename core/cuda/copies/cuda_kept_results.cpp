#include "core/cuda/copies/cuda_kept_results.h"

#include <cuda_runtime.h>

#include "core/base/check.h"
#include "core/cuda/kernels/launch.h"

namespace tandem::core {

CudaKeptResults::CudaKeptResults() {
  for (Step& step : steps_) {
    CheckCuda(cudaEventCreateWithFlags(&step.copied, cudaEventDisableTiming), "cudaEventCreate");
  }
}

CudaKeptResults::~CudaKeptResults() {
  // A GPU that failed has told so.
  for (Step& step : steps_) static_cast<void>(cudaEventDestroy(step.copied));
}

void CudaKeptResults::Keep(const uint8_t* failures, size_t tokens, const int32_t* sampled,
                           size_t rows, CudaStream stream) {
  TANDEM_CHECK(kept_ < 2, "the results of two steps are kept already");
  Step& next = steps_[(oldest_ + kept_) % steps_.size()];
  const size_t sampled_bytes = rows * sizeof(int32_t);
  if (sampled_bytes + tokens > next.capacity) {
    next.capacity = 0;
    next.bytes = AllocatePinned(sampled_bytes + tokens);
    next.capacity = sampled_bytes + tokens;
  }
  next.tokens = tokens;
  next.rows = rows;
  const auto copy = [&](size_t at, const void* from, size_t bytes) {
    if (bytes == 0) return;
    CheckCuda(cudaMemcpyAsync(next.bytes.get() + at, from, bytes, cudaMemcpyDeviceToHost, stream),
              "cudaMemcpyAsync");
  };
  copy(0, sampled, sampled_bytes);
  copy(sampled_bytes, failures, tokens);
  CheckCuda(cudaEventRecord(next.copied, stream), "cudaEventRecord");
  ++kept_;
}

bool CudaKeptResults::HasCome() const {
  TANDEM_CHECK(kept_ > 0, "no results are kept");
  const cudaError_t error = cudaEventQuery(steps_[oldest_].copied);
  if (error == cudaErrorNotReady) return false;
  CheckCuda(error, "the step");
  return true;
}

KeptResults CudaKeptResults::Take() {
  TANDEM_CHECK(kept_ > 0, "no results are kept");
  const Step& step = steps_[oldest_];
  CheckCuda(cudaEventSynchronize(step.copied), "the step");
  oldest_ = (oldest_ + 1) % steps_.size();
  --kept_;
  const std::byte* const failures = step.bytes.get() + step.rows * sizeof(int32_t);
  return {.failures = {reinterpret_cast<const uint8_t*>(failures), step.tokens},
          .sampled = {reinterpret_cast<const int32_t*>(step.bytes.get()), step.rows}};
}

}  // namespace tandem::core
