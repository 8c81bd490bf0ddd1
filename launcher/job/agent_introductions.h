#pragma once

#include "core/base/status.h"
#include "launcher/options/options.h"
#include "launcher/state/host_kv.h"
#include "parallel/communicators/communicator.h"

namespace tandem::launcher {

/// Brings the agents of a job's hosts together, so that they serve each other: the job, whose ranks
/// were started by the user, is the channel that they trust. On each host the first rank has its
/// agent listen at the address that the other hosts reach, and tells it of theirs. On one host
/// nobody listens.
///
/// All ranks call it together. kv: null on ranks that have no agent. What only some hosts cannot do
/// is told by the log and costs no more than the KV of others; errors are the world's.
absl::Status IntroduceAgents(parallel::Communicator& world, HostKv* kv,
                             const ModelOptions& options);

}  // namespace tandem::launcher
