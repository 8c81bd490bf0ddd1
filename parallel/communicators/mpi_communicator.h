#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "parallel/communicators/communicator.h"
#include "parallel/communicators/exchange_options.h"
#include "parallel/communicators/host_collective.h"
#include "parallel/start/start_watch.h"

namespace tandem::parallel {

struct MpiOptions {
  /// The number of ranks that was asked for; a world of another size is refused. None: any size.
  std::optional<int> expected_ranks;
  /// Largest count of one MPI call, whose counts are `int`; more is done in pieces. Tests make it
  /// small; at least 1.
  int64_t largest_count = int64_t{1} << 30;
  /// Ranks of one host meet in shared memory. False, or where the system gives none: by MPI.
  bool shared_memory = true;
  HostCollectiveOptions host = {};
  ExchangeOptions exchange = {};
  /// Ranks look after each other through it until FinishStart, and before each collective they wait
  /// for all: nobody blocks for ever because one is stopped. It must outlive the world, and all
  /// ranks have one or none has. Null: they do not.
  StartWatch* start_watch = nullptr;
};

/// True if a launcher (mpirun, srun with PMIx or PMI) started this process as a rank of a job.
bool StartedByMpi();

/// The number that the launcher gave this rank, known before MPI is joined; 0 without a launcher.
int StartedRank();

/// The world that this process was started in: MPI's if a launcher started it, otherwise a world of
/// one rank, which does not touch MPI and so costs nothing.
///
/// Reductions and gathers within a host go through shared memory (HostCollective); over several
/// hosts, reductions first within each host, then between them by MPI messages (HostExchange); all
/// else is MPI's own collectives. Call once a process. MPI calls may come from any thread, but from
/// one at a time (a second one is refused with an error); create and destroy on the same thread.
/// Destroying it finalizes MPI, which waits for the other ranks; after an error it ends the job
/// instead, so that nobody waits for ever. Errors: kFailedPrecondition if the world has another
/// size than expected, saying how to start the right one; kInternal from MPI, naming rank and host.
absl::StatusOr<std::unique_ptr<Communicator>> CreateWorld(const MpiOptions& options);

}  // namespace tandem::parallel
