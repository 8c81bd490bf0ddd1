#pragma once

#include <functional>

#include "core/base/status.h"
#include "core/formats/model_file.h"
#include "parallel/engine/engine.h"

namespace tandem::launcher {

/// What is done with a running engine.
using EngineBody =
    std::function<absl::Status(parallel::Engine& engine, const core::ModelFile& file)>;

/// What is done before it starts, once the model's file is open and before its weights are read:
/// whatever may fail. On rank 0, or in the process that starts the ranks.
using EnginePreparation = std::function<absl::Status(const core::ModelFile& file)>;

}  // namespace tandem::launcher
