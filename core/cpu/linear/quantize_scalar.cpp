#include <immintrin.h>

#include <bit>
#include <cmath>
#include <limits>

#include "core/cpu/linear/quantize_kernel.h"
#include "core/cpu/linear/quantize_scale.h"

namespace tandem::core {

void QuantizeScalar(const float* x, int64_t columns, const QuantizedRow& row) {
  const int64_t blocks = (columns + kBlockColumns - 1) / kBlockColumns;
  for (int64_t b = 0; b < blocks; ++b) {
    const float* values = x + b * kBlockColumns;
    const int64_t count =
        columns - b * kBlockColumns < kBlockColumns ? columns - b * kBlockColumns : kBlockColumns;
    uint32_t magnitude = 0;  // as bits, whose order is that of the magnitudes, NaN last
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t bits = std::bit_cast<uint32_t>(values[i]) & 0x7fffffff;
      if (bits > magnitude) magnitude = bits;
    }
    const BlockScale scale = ScaleOfBlock(magnitude);
    int8_t* codes = row.codes + b * row.group_tokens * kBlockColumns;
    int32_t sums[2] = {};
    for (int64_t i = 0; i < kBlockColumns; ++i) {
      int32_t code = 0;
      if (i < count && scale.inverse != 0) {
        code = _mm_cvtss_si32(_mm_set_ss(values[i] * scale.inverse));
      }
      codes[i] = static_cast<int8_t>(code);
      sums[i / 16] += code;
    }
    WriteScaleAndSums(scale.scale, sums[0], sums[1], b, row);
  }
}

}  // namespace tandem::core
