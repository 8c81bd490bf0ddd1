#pragma once

#include <string>

#include "core/base/status.h"
#include "launcher/options/options.h"

/// The node agent as a process: started by whoever needs it first, outside of any job, it keeps
/// the KV of its host in memory and on disk, and lives on for a while when nobody needs it.
namespace tandem::launcher {

/// Where the agent of this host keeps what it has: `kv/HOST` of the state directory.
std::string AgentPath(const StateOptions& state);
/// The file beside `kv/` by which KV of an agent's directory is known that is older than what was
/// erased from it last (kv_store/tiers/erasure_mark.h).
std::string ErasurePath(const std::string& agent_path);

/// Starts an agent unless one runs already; returns once it listens. An agent that runs keeps the
/// flags that it was started with. kUnavailable, saying where its log is, if it does not come up.
absl::Status EnsureAgent(const StateOptions& state);

/// Whether an agent of this host keeps KV there. Makes nothing.
bool AgentRuns(const StateOptions& state);

/// Has the agent of this host that keeps KV there write what it holds and end, and returns when it
/// has. False if there is none. kFailedPrecondition while a server has the directory;
/// kDeadlineExceeded, saying where its log is, if it does not end.
absl::StatusOr<bool> StopAgent(const StateOptions& state);

}  // namespace tandem::launcher
