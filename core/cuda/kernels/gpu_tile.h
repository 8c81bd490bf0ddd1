#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "core/cpu/linear/tile_format.h"
#include "core/cuda/kernels/device_code.h"

/// How kernels read tiles of floats (core/cpu/linear/tile_format.h).
namespace tandem::core {

template <DType kDtype>
struct TileOf {
  static constexpr TileFormat kFormat = TileFormatOf(kDtype);
};

template <typename T>
__device__ T LoadAs(const std::byte* at) {
  return *reinterpret_cast<const T*>(at);
}

__device__ inline float LoadHalf(const std::byte* at) {
  return __half2float(__ushort_as_half(LoadAs<uint16_t>(at)));
}

}  // namespace tandem::core
