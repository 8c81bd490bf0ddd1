#pragma once

#include <cstdint>
#include <memory>
#include <span>

namespace tandem::core {

/// Where operations keep their rows: host memory, or a device's.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;
  /// 64-byte aligned memory that is freed with the last copy of the pointer.
  virtual std::shared_ptr<std::byte> Allocate(int64_t bytes) = 0;
};

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

}  // namespace tandem::core
