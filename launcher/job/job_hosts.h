#pragma once

#include <string>
#include <vector>

#include "core/base/status.h"
#include "launcher/options/options.h"

/// Where a job's ranks will be, as far as that is known before mpirun starts them, and how mpirun
/// reaches other hosts.
namespace tandem::launcher {

/// Whether all ranks will be on this host: neither flags, nor a scheduler, nor Open MPI's own
/// settings name another. kInvalidArgument if the hostfile cannot be read.
absl::StatusOr<bool> StaysOnThisHost(const LaunchOptions& launch);

/// Has mpirun call `tandem reach AGENT` where it would call its remote shell: replaces the agent in
/// its arguments; gives the value of OMPI_MCA_plm_rsh_agent where these name none, or an empty one
/// if it must stay as the user has it.
std::string ReachThroughThisProgram(std::vector<std::string>& arguments);

/// `tandem reach AGENT HOST COMMAND...`: what mpirun calls in place of AGENT (ssh, by default).
/// Dies with mpirun, and the agent with it; says which host does not answer (UnreachedHost), or has
/// not for 12 s. Returns the agent's exit status.
int ReachHost(std::vector<std::string> words);

/// What `tandem reach` said on standard error of a host that cannot be reached, without its
/// beginning; empty for any other line.
std::string UnreachedHost(const std::string& line);

}  // namespace tandem::launcher
