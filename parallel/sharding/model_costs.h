#pragma once

#include "core/base/status.h"
#include "core/formats/model_file.h"
#include "parallel/sharding/shard_plan.h"

namespace tandem::parallel {

/// What the parts of a model cost, in bytes of the file's own formats; layers that mix formats are
/// added up, since every layer is cut alike. Errors: those of ModelFile, for a missing tensor.
absl::StatusOr<ModelCosts> CostsOf(const core::ModelFile& file);

}  // namespace tandem::parallel
