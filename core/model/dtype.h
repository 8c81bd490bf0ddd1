#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace tandem::core {

/// Element types of tensors in model files. Values are those of GGML (`enum ggml_type`).
enum class DType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBF16 = 30,
};

/// Name as tools of the field print it, e.g. "Q4_K".
std::string_view DTypeName(DType dtype);
/// The supported type with this GGML number, or nothing.
std::optional<DType> DTypeFromGgml(uint32_t number);
/// Elements of one block (1 for plain types, 32, or 256 for K-quants).
int64_t BlockElements(DType dtype);
/// Bytes of one block.
int64_t BlockBytes(DType dtype);
/// Bytes of a row of `columns` elements; columns must be a multiple of BlockElements.
inline int64_t RowBytes(DType dtype, int64_t columns) {
  return columns / BlockElements(dtype) * BlockBytes(dtype);
}

/// Slow, obvious expansion of `elements` values (whole blocks) to float32, as GGML defines the
/// formats. Every other way of reading weights is held against this one.
void Dequantize(DType dtype, const std::byte* data, int64_t elements, float* out);

}  // namespace tandem::core
