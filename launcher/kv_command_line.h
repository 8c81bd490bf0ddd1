#pragma once

#include <functional>

#include "core/base/status.h"
#include "launcher/options/options.h"

namespace CLI {
class App;
}  // namespace CLI

namespace tandem::launcher {

/// Adds `tandem kv` and its commands. `choose`: told what to run once the command line is read.
/// options: where their flags go; must outlive the command line.
void AddKvCommands(CLI::App& app, KvOptions& options,
                   const std::function<void(std::function<absl::Status()> run)>& choose);

}  // namespace tandem::launcher
