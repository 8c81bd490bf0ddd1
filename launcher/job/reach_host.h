#pragma once

#include <string>
#include <vector>

namespace tandem::launcher {

/// `tandem reach AGENT HOST COMMAND...`: what mpirun calls in place of AGENT (ssh, by default).
/// Dies with mpirun, and with it the agent and all that is in the agent's process group; says which
/// host cannot be reached (UnreachedHost), or whose shell has not begun for 12 s. Returns the
/// agent's exit status.
int ReachHost(std::vector<std::string> words);

/// What `tandem reach` said on standard error of a host that cannot be reached, without its
/// beginning; empty for any other line.
std::string UnreachedHost(const std::string& line);
/// Whether `tandem reach` said of a host that it does not answer, or cannot be reached.
bool TellsOfHost(const std::string& line);

}  // namespace tandem::launcher
