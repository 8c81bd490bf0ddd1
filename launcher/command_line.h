#pragma once

#include <string>
#include <vector>

#include "core/base/status.h"
#include "launcher/options/option_row.h"

namespace tandem::launcher {

/// The program: reads the command line, environment (TANDEM_...) and config file, runs the command,
/// and returns its exit status: 0 done, 1 failed at run time, 2 wrong usage. An error is one line
/// on standard error.
int RunCommandLine(int argc, char** argv);

/// Reads arguments (without the program and command) and the environment into rows, as a command
/// with these rows does. kInvalidArgument.
absl::Status ReadOptions(const std::vector<OptionRow>& rows, std::vector<std::string> arguments);

}  // namespace tandem::launcher
