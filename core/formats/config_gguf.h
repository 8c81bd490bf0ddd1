#pragma once

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

}  // namespace tandem::core
