#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/formats/gguf.h"
#include "core/model/config.h"

namespace tandem::core {

/// Of a layer without a sliding window, in files of models that were trained with
/// Infini-attention: [query heads] whose sigmoids are the part of the memory. Nothing else reads
/// it.
inline constexpr std::string_view kMemoryGate = "attn_infini_gate";

/// A tensor that a model must have.
struct TensorShape {
  std::string name;
  int64_t rows = 0;     // 0 for a vector
  int64_t columns = 0;  // elements of a vector
};

/// Every tensor of a model's forward pass under its GGUF name: the embedding, the layers in order,
/// output_norm, and output unless the head is tied; those that only some models have, where
/// config.parts names them.
std::vector<TensorShape> ExpectedTensors(const ModelConfig& config);

/// That the file holds the expected tensors in the expected shapes, and none that the forward pass
/// would have to know of and does not.
absl::Status CheckTensors(const GgufFile& file, const ModelConfig& config);

}  // namespace tandem::core
