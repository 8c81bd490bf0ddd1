#pragma once

#include <functional>

#include "core/model_file.h"
#include "core/status.h"
#include "launcher/options.h"
#include "parallel/engine.h"

namespace tandem::launcher {

/// What is done with a running engine.
using EngineBody =
    std::function<absl::Status(parallel::Engine& engine, const core::ModelFile& file)>;

/// This process as a rank: joins the world that mpirun started (or is the only rank), checks it,
/// loads its shard and runs.
///
/// Rank 0 runs `body` with the engine; the others follow until it returns. `expected_ranks`: 0
/// takes any world. Errors before the model is loaded are agreed upon and reported by one rank.
/// After a rank's death the process must end.
absl::Status RunRankJob(const ModelOptions& options, int expected_ranks, const EngineBody& body);

/// Runs `body` with an engine of as many ranks as asked for: in this process (one rank, or a rank
/// of mpirun's), or in ranks that are started by mpirun and reached over ZeroMQ.
absl::Status WithEngine(const ModelOptions& model, const LaunchOptions& launch,
                        const EngineBody& body);

}  // namespace tandem::launcher
