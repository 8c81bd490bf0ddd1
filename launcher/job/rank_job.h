#pragma once

#include <cstdint>
#include <functional>

#include "core/base/status.h"
#include "core/cpu/cpu_operations.h"
#include "core/formats/model_file.h"
#include "core/model/model.h"
#include "launcher/job/engine_body.h"
#include "launcher/options/cleanup_signals.h"
#include "launcher/options/options.h"
#include "parallel/communicators/communicator.h"
#include "parallel/coordinator/rank_setup.h"
#include "parallel/engine/engine.h"

namespace tandem::launcher {

/// A rank that has checked its world and loaded its shard.
struct LoadedRank {
  parallel::Communicator& world;
  const core::ModelFile& file;
  core::Model& model;
  core::CpuOptions cpu;           // what the model runs with
  parallel::RankOptions options;  // as the flags say
};

/// Who started the ranks, where somebody did.
struct Supervision {
  bool supervised = false;  // by somebody who tells of a rank's death
  uint64_t epoch = 0;       // the number of this life of theirs
};

/// What all ranks do together. An error that only some of them have must end the process.
using RankBody = std::function<absl::Status(const LoadedRank& rank)>;

/// An error that all ranks have (or OK). Rank 0 reports it before any of them ends, since mpirun
/// ends all when the first one does.
absl::Status ReportOnce(parallel::Communicator& world, absl::Status status);

/// Runs an engine on all ranks: rank 0 runs `body` with it, the others follow until it returns.
/// Afterwards the world is free again.
absl::Status RunEngine(const LoadedRank& rank, const EngineBody& body);

/// This process as a rank: joins the world that mpirun started (or is the only rank), checks it,
/// loads its shard and runs `body`. Rank 0 prepares before that. `expected_ranks`: 0 takes any
/// world. Errors before the model is loaded are agreed upon and reported by one rank. After a
/// rank's death the process must end.
absl::Status RunOnRanks(const ModelOptions& options, int expected_ranks, const RankBody& body,
                        const EnginePreparation& prepare = {}, Supervision supervision = {});

/// The same with an engine: rank 0 runs `body`, the others follow until it returns.
absl::Status RunRankJob(const ModelOptions& options, int expected_ranks, const EngineBody& body,
                        const EnginePreparation& prepare = {}, Supervision supervision = {});

/// kFailedPrecondition if this process may have fewer file descriptors than a job of so many ranks
/// takes, and `further` ones.
absl::Status CheckJobDescriptors(int ranks, int64_t further = 0);

}  // namespace tandem::launcher
