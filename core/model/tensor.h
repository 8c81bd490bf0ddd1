#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "core/model/device_memory.h"
#include "core/model/device_status.h"

namespace tandem::core {

/// Rows of one element type on one device: [rows, columns]. The number of rows is set before each
/// use; contents are not kept when it grows. `T` is float for activations, int64_t for sums.
template <typename T>
class Rows {
 public:
  Rows(DeviceMemory& memory, int64_t columns) : memory_(&memory), columns_(columns) {}

  void SetRows(int64_t rows) {
    if (rows > capacity_) {
      data_.reset();
      data_ = memory_->Allocate(rows * columns_ * static_cast<int64_t>(sizeof(T)));
      capacity_ = rows;
    }
    rows_ = rows;
  }

  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  T* data() { return reinterpret_cast<T*>(data_.get()); }
  const T* data() const { return reinterpret_cast<const T*>(data_.get()); }
  /// One row; host memory only.
  std::span<T> row(int64_t i) { return {data() + i * columns_, static_cast<size_t>(columns_)}; }
  std::span<const T> row(int64_t i) const {
    return {data() + i * columns_, static_cast<size_t>(columns_)};
  }

 private:
  DeviceMemory* memory_;
  int64_t columns_;
  int64_t rows_ = 0;
  int64_t capacity_ = 0;
  std::shared_ptr<std::byte> data_;
};

using Tensor = Rows<float>;

/// A small vector of the model (norm weight, bias) on its device: [n]; empty where the model has
/// none. Immutable; copies share the memory.
class WeightVector {
 public:
  WeightVector() = default;
  WeightVector(DeviceMemory& memory, std::span<const float> values)
      : data_(memory.Allocate(static_cast<int64_t>(values.size_bytes()))), size_(values.size()) {
    const CopyRun run{.device = data_.get(),
                      .host = reinterpret_cast<std::byte*>(const_cast<float*>(values.data())),
                      .bytes = values.size_bytes()};
    ThrowDeviceFailure(memory.CopyFromHost({&run, 1}));
  }

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  const float* data() const { return reinterpret_cast<const float*>(data_.get()); }
  /// Host memory only.
  std::span<const float> values() const { return {data(), size_}; }

 private:
  std::shared_ptr<std::byte> data_;
  size_t size_ = 0;
};

}  // namespace tandem::core
