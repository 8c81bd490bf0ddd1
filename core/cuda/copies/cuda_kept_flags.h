#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "core/cuda/copies/cuda_pinned_memory.h"
#include "core/cuda/kernels/cuda_stream.h"

struct CUevent_st;

namespace tandem::core {

/// The flags of steps that the host asks for later, when it has begun the next step: of two steps
/// at most. Thread safety: one thread calls. Failures of CUDA throw DeviceFailure.
class CudaKeptFlags {
 public:
  /// Of the thread's GPU.
  CudaKeptFlags();
  ~CudaKeptFlags();
  CudaKeptFlags(const CudaKeptFlags&) = delete;
  CudaKeptFlags& operator=(const CudaKeptFlags&) = delete;

  /// Puts a copy of them into the stream. flags: [count] on the GPU.
  void Keep(const uint8_t* flags, size_t count, CudaStream stream);
  /// Steps whose flags were not taken yet.
  size_t kept() const { return kept_; }
  /// Waits for the oldest; good until they are kept anew.
  std::span<const uint8_t> Take();

 private:
  struct Flags {
    PinnedBytes bytes;
    size_t capacity = 0;
    size_t count = 0;
    CUevent_st* copied = nullptr;
  };
  std::array<Flags, 3> steps_;  // those that are kept, and those that were taken last
  size_t oldest_ = 0;
  size_t kept_ = 0;
};

}  // namespace tandem::core
