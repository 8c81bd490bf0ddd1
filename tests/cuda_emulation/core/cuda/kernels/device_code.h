#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "fmt/format.h"
#include "tests/cuda_emulation/gpus.h"

/// The emulation's form of core/cuda/kernels/device_code.h: the same names, checked.
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

inline void WaitForKernelBefore() { cuda_emulation::Block::Current().WaitForKernelBefore(); }
inline void LetNextKernelStart() {}
inline void BeginKernel() { WaitForKernelBefore(); }

inline void StoreForAll(uint32_t* word, uint32_t value) {
  if (cuda_emulation::NextStoreArrives()) __atomic_store_n(word, value, __ATOMIC_RELEASE);
}
inline uint32_t LoadOfAll(const uint32_t* word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
inline void PauseInLoop() { cuda_emulation::Block::Current().PauseInLoop(); }

template <int kBytes>
void CopyAsync(int to, const void* from) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  cuda_emulation::Block::Current().copies().Put(static_cast<size_t>(to), from, kBytes);
}

class WeightReader {
 public:
  explicit WeightReader(bool) {}
  uint4 Load16(const void* from) const { return Load<uint4>(from); }
  uint2 Load8(const void* from) const { return Load<uint2>(from); }
  uint32_t Load4(const void* from) const { return Load<uint32_t>(from); }
  void CopyAsync16(int to, const void* from) const { CopyAsync<16>(to, from); }

 private:
  template <typename T>
  static T Load(const void* from) {
    if (reinterpret_cast<uintptr_t>(from) % sizeof(T) != 0) {
      cuda_emulation::Fail(fmt::format("a read of {} bytes is not aligned", sizeof(T)));
    }
    T value;
    std::memcpy(&value, from, sizeof(value));
    return value;
  }
};

inline void CommitCopies() { cuda_emulation::Block::Current().copies().Commit(); }
template <int kGroups>
void WaitForCopies() {
  cuda_emulation::Block::Current().copies().Wait(kGroups);
}

template <bool kTransposed>
void LoadMatrices(int row_at, uint32_t (&words)[4], const char* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
  auto& block = cuda_emulation::Block::Current();
  if (row_at % 16 != 0) cuda_emulation::Fail("a row of matrices is not aligned");
  uint64_t rows[32];
  block.ExchangeAll(static_cast<uint64_t>(row_at), rows, {file, line});
  const int lane = block.lane();
  const auto half = [&](int matrix, int row, int column) -> uint32_t {
    const auto byte = static_cast<int>(rows[8 * matrix + row]) + 2 * column;
    const uint32_t word = SharedArray<uint32_t>(0)[byte / 4];
    return word >> (8 * (byte % 4)) & 0xffff;
  };
  for (int i = 0; i < 4; ++i) {
    const int two = 2 * (lane % 4);
    words[i] = kTransposed ? half(i, two, lane / 4) | half(i, two + 1, lane / 4) << 16
                           : half(i, lane / 4, two) | half(i, lane / 4, two + 1) << 16;
  }
}

/// One thread's fragments of a and b.
struct HalfFragments {
  const uint32_t* a;
  uint32_t b[2];
};

inline void MultiplyHalves(const uint32_t (&a)[4], uint32_t b0, uint32_t b1, float (&c)[4],
                           const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  auto& block = cuda_emulation::Block::Current();
  const cuda_emulation::Site site = {file, line};
  const HalfFragments mine = {a, {b0, b1}};
  uint64_t all[32];
  block.ExchangeAll(reinterpret_cast<uint64_t>(&mine), all, site);
  const auto half = [](uint32_t word, int i) {
    return __half2float(__ushort_as_half(static_cast<uint16_t>(word >> (16 * i))));
  };
  const int lane = block.lane();
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4;
    const int column = 2 * (lane % 4) + i % 2;
    for (int k = 0; k < 16; ++k) {
      const auto& of_row = *reinterpret_cast<const HalfFragments*>(all[4 * row + k % 8 / 2]);
      const auto& of_column = *reinterpret_cast<const HalfFragments*>(all[4 * column + k % 8 / 2]);
      c[i] += half(of_row.a[2 * (k / 8) + i / 2], k % 2) * half(of_column.b[k / 8], k % 2);
    }
  }
  block.SyncFragments(site);
}

inline float NearExp2(float x) { return std::exp2(x); }

/// One thread's fragments of a and b.
struct ByteFragments {
  const uint32_t* a;
  const uint32_t* b;
};

/// kHalves: 16 elements of a row each. Every thread takes its sums from the fragments of all.
template <int kHalves>
void MultiplyFragments(const ByteFragments& mine, int32_t start, int32_t (&c)[4],
                       const cuda_emulation::Site& site) {
  auto& block = cuda_emulation::Block::Current();
  uint64_t all[32];
  block.ExchangeAll(reinterpret_cast<uint64_t>(&mine), all, site);
  const int lane = block.lane();
  for (int i = 0; i < 4; ++i) {
    c[i] = start;
    const int row = lane / 4;
    const int column = 2 * (lane % 4) + i % 2;
    for (int four = 0; four < 4; ++four) {
      const auto& of_row = *reinterpret_cast<const ByteFragments*>(all[4 * row + four]);
      const auto& of_column = *reinterpret_cast<const ByteFragments*>(all[4 * column + four]);
      for (int half = 0; half < kHalves; ++half) {
        c[i] = __dp4a(static_cast<int>(of_row.a[2 * half + i / 2]),
                      static_cast<int>(of_column.b[half]), c[i]);
      }
    }
  }
  // Nobody's fragments go before all have read them.
  block.SyncFragments(site);
}

inline void MultiplyBytes32(const uint32_t (&a)[4], const uint32_t (&b)[2], int32_t start,
                            int32_t (&c)[4], const char* file = __builtin_FILE(),
                            int line = __builtin_LINE()) {
  MultiplyFragments<2>({a, b}, start, c, {file, line});
}
inline void MultiplyBytes16(const uint32_t (&a)[2], uint32_t b, int32_t start, int32_t (&c)[4],
                            const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  MultiplyFragments<1>({a, &b}, start, c, {file, line});
}

}  // namespace tandem::core
