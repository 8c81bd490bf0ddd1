#pragma once

namespace tandem::launcher {

/// The program: reads the command line, environment (TANDEM_...) and config file, runs the command,
/// and returns its exit status: 0 done, 1 failed at run time, 2 wrong usage. An error is one line
/// on standard error.
int RunCommandLine(int argc, char** argv);

}  // namespace tandem::launcher
