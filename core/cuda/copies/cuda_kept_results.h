#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "core/cuda/copies/cuda_pinned_memory.h"
#include "core/cuda/kernels/cuda_stream.h"
#include "core/model/model.h"

struct CUevent_st;

namespace tandem::core {

/// What steps give whose host asks for it later, when it has begun the next step: of two steps at
/// most. Thread safety: one thread calls. Failures of CUDA throw DeviceFailure.
class CudaKeptResults {
 public:
  /// Of the thread's GPU.
  CudaKeptResults();
  ~CudaKeptResults();
  CudaKeptResults(const CudaKeptResults&) = delete;
  CudaKeptResults& operator=(const CudaKeptResults&) = delete;

  /// Puts a copy of them into the stream. On the GPU: failures [tokens], sampled [rows].
  void Keep(const uint8_t* failures, size_t tokens, const int32_t* sampled, size_t rows,
            CudaStream stream);
  /// Steps whose results were not taken yet.
  size_t kept() const { return kept_; }
  /// Whether the oldest have come.
  bool HasCome() const;
  /// Waits for the oldest; good until results are kept anew.
  KeptResults Take();

 private:
  struct Step {
    PinnedBytes bytes;  // sampled, failures
    size_t capacity = 0;
    size_t tokens = 0;
    size_t rows = 0;
    CUevent_st* copied = nullptr;
  };
  std::array<Step, 3> steps_;  // those that are kept, and the one that was taken last
  size_t oldest_ = 0;
  size_t kept_ = 0;
};

}  // namespace tandem::core
