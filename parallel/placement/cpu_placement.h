#pragma once

#include <string>
#include <vector>

#include "core/base/status.h"
#include "parallel/communicators/communicator.h"

namespace tandem::parallel {

/// Logical processors, by the system's numbers, ascending.
using CpuSet = std::vector<int>;

/// A core, with the logical processors (hardware threads) that share it.
struct CpuCore {
  int node = 0;  // NUMA node, by the system's number
  CpuSet cpus;
};

/// The cores of this host, neighbours side by side. Errors: kInternal from hwloc.
absl::StatusOr<std::vector<CpuCore>> CoresOfThisHost();
/// The cores of an invented host, for tests: "node:2 core:4 pu:2" (hwloc's synthetic topologies).
absl::StatusOr<std::vector<CpuCore>> SyntheticCores(const std::string& description);

/// What the calling thread may run on: the system's processors less what cgroups, taskset, mpirun
/// or numactl took away.
CpuSet AllowedCpus();

/// From now on the calling thread, and threads that it starts, run on `cpus` only. Errors:
/// kFailedPrecondition with the system's reason.
absl::Status BindThisThread(const CpuSet& cpus);

/// Whether threads are bound to processors.
enum class Pinning {
  kNone,   // the system moves them as it likes
  kNodes,  // to the NUMA node of the rank, where there are several
  kCores,  // each to a core of its own
};

/// What a rank of this host has, and wants.
struct CpuWish {
  CpuSet allowed;
  int threads = 0;  // 0: as many as cores that are this rank's
};

/// Where a rank's threads run.
struct CpuPlacement {
  int threads = 1;
  /// All threads of the ranks that share processors have one each, so that waiting by polling takes
  /// nothing from anyone.
  bool may_poll = false;
  CpuSet cpus;                      // that the rank is bound to; empty: not bound
  std::vector<CpuSet> thread_cpus;  // [threads], with kCores; else empty
  std::string text;  // for the log: "bound to node 0", or why not; empty if there was no question
};

/// Divides the cores among the ranks of a host. wishes: [ranks of the host], not empty.
///
/// Ranks with the same allowed processors share them: with kNodes and kCores each takes a NUMA
/// node, rank i node i mod nodes (several nodes each, where there are more nodes than ranks),
/// otherwise they share the cores evenly. Threads are bound only if no node gets more threads than
/// cores. Ranks whose allowed processors overlap in part are never bound and do not poll.
CpuPlacement PlaceRank(const std::vector<CpuCore>& cores, const std::vector<CpuWish>& wishes,
                       Pinning pinning, int local_rank);

/// The same for this rank of `world`, by what all its ranks say; called by all together. Without
/// hwloc's answer every processor counts as a core.
absl::StatusOr<CpuPlacement> AgreeOnPlacement(Communicator& world, Pinning pinning, int threads);

}  // namespace tandem::parallel
