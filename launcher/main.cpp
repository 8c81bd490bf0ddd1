#include <string_view>

#include "core/system/standard_output.h"
#include "kv_store/journal/database_ways.h"
#include "launcher/command_line.h"
#include "launcher/job/reach_host.h"

int main(int argc, char** argv) {
  tandem::OpenMissingStandardFiles();
  if (const auto status = tandem::kv_store::RunDatabaseTrial({argv, argv + argc})) return *status;
  // Not one of the command line's: mpirun calls it, and what follows are another program's flags.
  if (argc > 1 && std::string_view(argv[1]) == "reach") {
    return tandem::launcher::ReachHost({argv + 2, argv + argc});
  }
  return tandem::launcher::RunCommandLine(argc, argv);
}
