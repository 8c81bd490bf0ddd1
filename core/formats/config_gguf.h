#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/formats/gguf.h"
#include "core/model/config.h"

namespace tandem::core {

inline constexpr int kMaxHeads = 512;

/// The config that a GGUF file's metadata tells, as llama.cpp reads it, checked to be consistent
/// and within limits. Whether output.weight and the biases of a llama are there is read from the
/// tensor list, the vocabulary from the rows of token_embd.weight. Errors name file, key, expected,
/// found.
absl::StatusOr<ModelConfig> ReadConfig(const GgufFile& file);

/// A tensor that a model must have.
struct TensorShape {
  std::string name;
  int64_t rows = 0;     // 0 for a vector
  int64_t columns = 0;  // elements of a vector
};

/// Every tensor of a model's forward pass under its GGUF name: token_embd, the layers in order,
/// output_norm, and output unless the head is tied.
std::vector<TensorShape> ExpectedTensors(const ModelConfig& config);

/// That the file holds the expected tensors in the expected shapes, and none that the forward pass
/// would have to know of and does not.
absl::Status CheckTensors(const GgufFile& file, const ModelConfig& config);

}  // namespace tandem::core
