#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "core/cpu/linear/packed_matrix.h"
#include "core/model/dtype.h"

namespace tandem::core {

inline constexpr DType kAllDTypes[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ4_0,
                                       DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ8_0,
                                       DType::kQ2_K, DType::kQ3_K, DType::kQ4_K, DType::kQ5_K,
                                       DType::kQ6_K};

/// The name of a test of one format.
std::string DTypeParamName(const ::testing::TestParamInfo<DType>& info);

/// A random matrix in the bytes of a model file, with what the bytes mean. Quantized formats are
/// written from their description, in the direction opposite to the one the program reads.
struct WeightSample {
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t columns = 0;
  std::vector<std::byte> bytes;

  std::vector<float> values;  // [rows, columns]
  // Quantized: value = scale * code + offset, code with the zero point removed.
  int group = 0;               // columns of one scale: 16 or 32; 0 for plain formats
  std::vector<int> codes;      // [rows, columns]
  std::vector<float> scales;   // [rows, columns / group]
  std::vector<float> offsets;  // the same; empty where the format has none

  MatrixSource source(std::string_view name = "sample") const {
    return {name, dtype, bytes.data(), rows, columns};
  }
};

enum class CodeChoice { kRandom, kSmallest, kLargest };

WeightSample MakeWeights(DType dtype, int64_t rows, int64_t columns, uint32_t seed,
                         CodeChoice choice = CodeChoice::kRandom);

}  // namespace tandem::core
