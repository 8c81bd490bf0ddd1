#pragma once

#include <functional>

#include "core/base/status.h"
#include "core/formats/model_file.h"
#include "parallel/engine/engine.h"

namespace tandem::launcher {

/// What is done with a running engine.
using EngineBody =
    std::function<absl::Status(parallel::Engine& engine, const core::ModelFile& file)>;

}  // namespace tandem::launcher
