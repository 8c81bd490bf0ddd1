#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "launcher/options/options.h"

/// Where a job's ranks will be, as far as that is known before mpirun starts them, and how mpirun
/// reaches other hosts.
namespace tandem::launcher {

/// Finds, before anything is started, what is wrong with the flags that say where ranks are: one
/// that means nothing here, a hostfile that cannot be read, an interface that this host, which is
/// rank 0's, does not have. kInvalidArgument.
absl::Status CheckLaunch(const ModelOptions& model, const LaunchOptions& launch);
/// Of that, what rank 0 checks on its own host.
absl::Status CheckControlInterface(const ModelOptions& model);

/// Whether all ranks will be on this host: neither flags, nor a scheduler, nor Open MPI's own
/// settings name another.
bool StaysOnThisHost(const LaunchOptions& launch);

/// The hosts of the hostfile that are not this one, as it names them.
std::vector<std::string> OtherHosts(const LaunchOptions& launch);

/// Whether the user has said whether mpirun cuts hosts' names at the first dot, as it does by
/// default: it would call its remote shell with what is left. arguments: of mpirun.
bool KeepsWholeNames(const std::vector<std::string>& arguments);

/// Has mpirun call `tandem reach AGENT` where it would call its remote shell: replaces the agent in
/// its arguments; gives the value of OMPI_MCA_plm_rsh_agent where these name none, or an empty one
/// if it must stay as the user has it.
std::string ReachThroughThisProgram(std::vector<std::string>& arguments);

/// The remote shell by which mpirun reaches other hosts: what its arguments or its variable name,
/// or ssh.
std::string RemoteShellOf(const LaunchOptions& launch);

/// Variable that names the folder of mpirun's session on its own host.
inline constexpr const char* kLocalFolderVariable = "OMPI_MCA_orte_local_tmpdir_base";

}  // namespace tandem::launcher
