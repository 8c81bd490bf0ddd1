#pragma once

#include <cuda_runtime.h>

#include <type_traits>

/// The emulation's form of core/cuda/device_code.h: the same names, checked.
namespace tandem::core {

/// Stands for a T in shared memory; reads and writes are checked for races.
template <typename T>
class SharedElement {
 public:
  SharedElement(T* at, size_t word) : at_(at), word_(word) {}
  operator T() const {  // NOLINT: as a T&
    auto& block = cuda_emulation::Block::Current();
    block.shared().CheckRead(word_, kWords, block.moment());
    return *at_;
  }
  SharedElement& operator=(T value) {
    auto& block = cuda_emulation::Block::Current();
    block.shared().CheckWrite(word_, kWords, block.moment());
    *at_ = value;
    return *this;
  }
  SharedElement(const SharedElement&) = default;
  SharedElement& operator=(const SharedElement& other) { return *this = static_cast<T>(other); }

 private:
  static constexpr size_t kWords = sizeof(T) / 4;
  T* at_;
  size_t word_;
};

template <typename T>
class SharedArray {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) % 4 == 0);

 public:
  explicit SharedArray(size_t first_byte) : first_byte_(first_byte) {}
  SharedElement<T> operator[](int index) const {
    const auto offset = first_byte_ + static_cast<size_t>(index) * sizeof(T);
    std::byte* at = cuda_emulation::Block::Current().shared().data() + offset;
    return {reinterpret_cast<T*>(at), offset / 4};
  }

 private:
  size_t first_byte_;
};

}  // namespace tandem::core
