#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/formats/model_file.h"
#include "launcher/options/options.h"

namespace tandem::launcher {

/// Finds, before anything is started, whatever is wrong with the model, the flags or the number of
/// ranks.
absl::StatusOr<std::unique_ptr<core::ModelFile>> CheckRanks(const ModelOptions& model, int ranks);

/// How an agent is to keep KV, as flags.
std::vector<std::string> AgentFlags(const StateOptions& state);

/// This program with a command (worker, bench), the model and all of ModelOptions as flags: what
/// mpirun starts, wherever it does.
std::vector<std::string> CommandOfRanks(const std::string& name, const ModelOptions& model);

}  // namespace tandem::launcher
