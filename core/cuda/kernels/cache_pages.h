#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "core/cuda/kernels/cache_layer.h"

/// How kernels find and read the cache. Its elements are float, or uint16_t for float16.
namespace tandem::core {

/// Keys of the page in which a position of a token's sequence lies; values follow.
template <typename Element>
__device__ Element* KeysOf(const TokenPlaces& places, const CacheLayer& layer, int64_t token,
                           int64_t position, int kv_head) {
  const int64_t block = places.blocks[layer.table_begins[token] + position / kPageTokens];
  return reinterpret_cast<Element*>(layer.base + block * layer.block_stride +
                                    kv_head * layer.page_bytes);
}

/// First position that a token at `position` sees.
__device__ inline int64_t FirstVisible(int64_t position, int window) {
  return window == 0 || position < window ? 0 : position - window + 1;
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

}  // namespace tandem::core
