// What all quantizers share, the GPU's too. Internal linkage, so that no code of a wider
// instruction set can be picked by the linker for use elsewhere.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/cpu/linear/quantize_kernel.h"
#include "core/cpu/linear/tile_format.h"
#include "core/cpu/simd/host_device.h"

namespace tandem::core {
namespace {

struct BlockScale {
  float scale = 0;
  float inverse = 0;  // what values are multiplied with; 0: all codes are 0
};

/// From the bits of the largest magnitude of a block; see Activations.
TANDEM_HOST_DEVICE inline __attribute__((always_inline)) BlockScale ScaleOfBlock(
    uint32_t magnitude) {
  constexpr uint32_t kInfinity = 0x7f800000;
  if (magnitude >= kInfinity) return {__builtin_nanf(""), 0};
  float amax;
  std::memcpy(&amax, &magnitude, sizeof(amax));
  if (amax == 0) return {0, 0};
  const float inverse = 127.0F / amax;
  uint32_t inverse_bits;
  std::memcpy(&inverse_bits, &inverse, sizeof(inverse_bits));
  if (inverse_bits >= kInfinity) return {0, 0};
  return {amax / 127.0F, inverse};
}

inline __attribute__((always_inline)) void WriteScaleAndSums(float scale, int32_t first,
                                                             int32_t second, int64_t block,
                                                             const QuantizedRow& row) {
  const int64_t stride = row.group_tokens;
  row.scales[block * stride] = scale;
  int32_t* negative_sums = row.negative_sums + 3 * block * stride;
  float* float_sums = row.float_sums + 3 * block * stride;
  negative_sums[0] = -first;
  negative_sums[stride] = -second;
  negative_sums[2 * stride] = -(first + second);
  float_sums[0] = static_cast<float>(first);
  float_sums[stride] = static_cast<float>(second);
  float_sums[2 * stride] = static_cast<float>(first + second);
}

}  // namespace
}  // namespace tandem::core
