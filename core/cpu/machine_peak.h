#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

#include "core/base/arena.h"
#include "core/base/isa.h"
#include "core/base/status.h"
#include "core/base/thread_pool.h"

/// What this machine can do at most, measured: the ceilings that benchmarks compare with.
namespace tandem::core {

/// A plain read loop over every byte of `bytes`, a multiple of 256. The result only keeps the
/// compiler from leaving the loop out.
int64_t SumBytes(const std::byte* data, int64_t bytes);

/// Multiplies and adds 8-bit numbers in registers, `rounds` times, and returns the multiply-adds
/// done: `vpdpbusd` for kAvx512, `vpmaddubsw` with `vpmaddwd` for the others.
int64_t MultiplyAddInt8(Isa isa, int64_t rounds);

/// Memory to read, on huge pages where the system gives them (core/base/arena.h).
class ReadPeak {
 public:
  /// `bytes`: at least a page; should be far more than the caches hold. All threads of the pool
  /// write it first. kResourceExhausted for want of memory.
  static absl::StatusOr<ReadPeak> Create(int64_t bytes, ThreadPool& pool);

  /// Bytes a second that all threads of the pool read together, over at least `time`.
  double Measure(std::chrono::nanoseconds time, ThreadPool& pool) const;
  int64_t bytes() const { return bytes_; }

 private:
  ReadPeak() = default;

  Arena arena_;
  const std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

/// Multiply-adds of 8-bit numbers a second that all threads of the pool do together, over at least
/// `time`.
double MeasureInt8Peak(Isa isa, std::chrono::nanoseconds time, ThreadPool& pool);

}  // namespace tandem::core
