#pragma once

#include <string_view>

#include "core/base/status.h"
#include "core/formats/model_file.h"
#include "core/model/operations.h"

namespace tandem::core {

/// Which norm to load.
struct NormSpec {
  NormKind kind = NormKind::kRms;
  float epsilon = 0.0F;
  int64_t size = 0;
};

/// The norm whose tensors are `name` and .weight (missing: 1), .bias (missing: 0) and, for kBatch,
/// .running_mean and .running_var. Of kBatch scale and shift are made in double and rounded once.
/// kInvalidArgument where running_var + epsilon is not above 0; other errors are those of
/// ModelFile::Vector.
absl::StatusOr<Norm> LoadNorm(const ModelFile& file, std::string_view name, const NormSpec& spec,
                              DeviceMemory& memory);

}  // namespace tandem::core
