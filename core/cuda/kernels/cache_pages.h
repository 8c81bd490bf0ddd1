#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "core/cpu/simd/float8.h"
#include "core/cuda/kernels/attention_kernels.h"
#include "core/cuda/kernels/device_code.h"

/// How kernels find and read the cache. Its elements are float, uint16_t for float16, or Float8.
namespace tandem::core {

/// Keys of the page in which a position of a token's sequence lies; values follow.
template <typename Element>
__device__ Element* KeysOf(const TokenPlaces& places, const CacheLayer& layer, int64_t token,
                           int64_t position, int kv_head) {
  const int64_t block = places.blocks[layer.table_begins[token] + position / kPageTokens];
  return reinterpret_cast<Element*>(layer.base + block * layer.block_stride +
                                    kv_head * layer.page_bytes);
}

template <typename Element>
inline constexpr bool kScaled = sizeof(Element) == 1;

/// Scales of the page whose keys these are: [2, 64] of keys and values.
template <typename Element>
__device__ float* ScalesOf(Element* keys, int head_dim) {
  return reinterpret_cast<float*>(keys + int64_t{2} * kPageTokens * head_dim);
}

/// Two neighbouring elements of the cache.
template <typename Element>
struct ElementPair;

template <>
struct ElementPair<uint16_t> {
  uint32_t bits;
  __device__ float first() const { return Float(bits & 0xffff); }
  __device__ float second() const { return Float(bits >> 16); }

 private:
  static __device__ float Float(uint32_t half) {
    return __half2float(__ushort_as_half(static_cast<uint16_t>(half)));
  }
};

template <>
struct ElementPair<float> {
  float2 values;
  __device__ float first() const { return values.x; }
  __device__ float second() const { return values.y; }
};

template <>
struct ElementPair<Float8> {
  uint32_t halves;
  __device__ float first() const { return ElementPair<uint16_t>{halves}.first(); }
  __device__ float second() const { return ElementPair<uint16_t>{halves}.second(); }
};

/// Pairs of elements in the shared memory of a block, from a byte of it on.
template <typename Element>
class PairArray {
 public:
  __device__ explicit PairArray(int first_byte) : pairs_(static_cast<size_t>(first_byte)) {}
  __device__ ElementPair<Element> operator[](int pair) const { return pairs_[pair]; }

 private:
  SharedArray<ElementPair<Element>> pairs_;
};

template <>
class PairArray<Float8> {
 public:
  __device__ explicit PairArray(int first_byte) : words_(static_cast<size_t>(first_byte)) {}
  /// HalfOfFloat8 of both.
  __device__ ElementPair<Float8> operator[](int pair) const {
    const auto at = static_cast<unsigned>(pair);
    const uint32_t word = words_[static_cast<int>(at / 2)];
    // Puts a code into the upper byte of each half.
    const uint32_t codes = __byte_perm(word, 0, at % 2 == 0 ? 0x1404 : 0x3424);
    return {(codes & 0x80008000) | (codes >> 1 & 0x3f803f80)};
  }

 private:
  SharedArray<uint32_t> words_;
};

}  // namespace tandem::core
