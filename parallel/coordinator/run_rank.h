#pragma once

#include <memory>

#include "core/base/status.h"
#include "core/model/model.h"
#include "parallel/communicators/communicator.h"
#include "parallel/control/control_channel.h"
#include "parallel/coordinator/coordinator.h"
#include "parallel/coordinator/rank_setup.h"

namespace tandem::parallel {

/// One rank's part of the engine, from a loaded shard to the end. Called by all ranks together.
///
/// Rank 0 gets the engine at once. From then on only the engine's step thread uses `world` and
/// `model`, which must outlive it. Every other rank follows plans until rank 0's engine is
/// destroyed (null) or an error ends this rank. Rank 0 has then been told; the caller gives it
/// about a second to answer its clients, calls world.Abort and ends the process. Errors at startup
/// are the same on all ranks and name the rank that had it.
absl::StatusOr<std::unique_ptr<Coordinator>> RunRank(const RankOptions& options,
                                                     Communicator& world, core::Model& model);

/// The same over a given channel: rank 0 passes `leader`, the others `follower`.
absl::StatusOr<std::unique_ptr<Coordinator>> RunLeader(const RankOptions& options,
                                                       Communicator& world, core::Model& model,
                                                       std::unique_ptr<ControlLeader> leader);
absl::Status RunFollower(const RankOptions& options, Communicator& world, core::Model& model,
                         ControlFollower& follower);

}  // namespace tandem::parallel
