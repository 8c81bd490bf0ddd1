#pragma once

#include <cstdint>

#include "core/base/status.h"
#include "core/model/config.h"

namespace tandem::core {

/// What the kernels' launches take, besides kMostHeadDim (attention/attention_kernels.h). A grid
/// has at most 65535 blocks in its second and third dimension.
inline constexpr int64_t kMostGridRows = 65535;
inline constexpr int64_t kLeastTokensOfBlock = 8;  // of a product
inline constexpr int64_t kColumnsOfBlock = 128;    // of what works on rows
inline constexpr int64_t kMostStepTokens = kMostGridRows * kLeastTokensOfBlock;
inline constexpr int64_t kMostColumns = kMostGridRows * kColumnsOfBlock;

/// Which operation CUDA does not have for such a model and steps of so many tokens: kUnimplemented,
/// naming it and what of the model it is. All families, weight types, caches, gates, rotary layouts
/// and windows are there. Needs no GPU.
absl::Status CheckGpuLimits(const ModelConfig& config, int64_t step_tokens);

}  // namespace tandem::core
