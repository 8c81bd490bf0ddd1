#pragma once

#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "core/cuda/cuda_memory.h"
#include "core/model/device_status.h"
#include "tests/support/random.h"

namespace tandem::testing {

/// Values in the memory of a GPU.
template <typename T>
class OnGpu {
 public:
  OnGpu(core::CudaMemory& memory, std::span<const T> values)
      : OnGpu(memory, static_cast<int64_t>(values.size())) {
    const core::CopyRun run{bytes_.get(),
                            reinterpret_cast<std::byte*>(const_cast<T*>(values.data())),
                            values.size_bytes()};
    core::ThrowDeviceFailure(memory.CopyFromHost({&run, 1}));
  }
  OnGpu(core::CudaMemory& memory, const std::vector<T>& values)
      : OnGpu(memory, std::span<const T>(values)) {}
  /// Not set.
  OnGpu(core::CudaMemory& memory, int64_t count)
      : memory_(memory),
        count_(static_cast<size_t>(count)),
        bytes_(memory.Allocate(count * static_cast<int64_t>(sizeof(T)))) {}

  T* data() const { return reinterpret_cast<T*>(bytes_.get()); }
  /// Waits for what was put into the memory's stream.
  std::vector<T> Read() const {
    std::vector<T> values(count_);
    const core::CopyRun run{bytes_.get(), reinterpret_cast<std::byte*>(values.data()),
                            count_ * sizeof(T)};
    core::ThrowDeviceFailure(memory_.CopyToHost({&run, 1}));
    return values;
  }

 private:
  core::CudaMemory& memory_;
  size_t count_;
  std::shared_ptr<std::byte> bytes_;
};

/// Of magnitude 2^-12 to 2^4, most of them small.
inline std::vector<float> RandomFloats(int64_t count, uint64_t seed) {
  SplitMix random(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) {
    const float magnitude = std::ldexp(1.0F, static_cast<int>(random.Below(16)) - 12);
    value = (2 * random.Unit() - 1) * magnitude;
  }
  return values;
}

/// Whether two arrays have the same bits, where NaN is NaN.
inline bool SameBits(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    const bool nan = std::isnan(a[i]) && std::isnan(b[i]);
    if (!nan && std::memcmp(&a[i], &b[i], sizeof(float)) != 0) return false;
  }
  return true;
}

}  // namespace tandem::testing
