#pragma once

#include <cstddef>
#include <cstdint>

/// Quantization of one row of activations; the seam between activations.cpp and the instruction
/// sets. Nobody else includes this.
namespace tandem::core {

/// Where one token's codes go, in the layout of Activations::Group; all pointers are at this token.
struct QuantizedRow {
  int64_t group_tokens = 0;  // from block to block: that many times 32 codes, 1 scale, 3 sums
  int8_t* codes = nullptr;
  float* scales = nullptr;
  int32_t* negative_sums = nullptr;
  float* float_sums = nullptr;
};

/// x: [columns]
using QuantizeKernel = void (*)(const float* x, int64_t columns, const QuantizedRow& row);

void QuantizeScalar(const float* x, int64_t columns, const QuantizedRow& row);
void QuantizeAvx2(const float* x, int64_t columns, const QuantizedRow& row);
void QuantizeAvx512(const float* x, int64_t columns, const QuantizedRow& row);

inline constexpr int kQuantizedTogether = 8;

/// All tokens of a group of kQuantizedTogether. x: [8, columns] with `stride` floats from row to
/// row; first: the first of them.
void QuantizeGroupAvx512(const float* x, int64_t stride, int64_t columns,
                         const QuantizedRow& first);

}  // namespace tandem::core
