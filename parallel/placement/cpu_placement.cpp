#include "parallel/placement/cpu_placement.h"

#include <hwloc.h>
#include <sched.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <set>

#include "core/base/errno_text.h"
#include "parallel/communicators/gather_messages.h"

namespace tandem::parallel {
namespace {

struct DestroyTopology {
  void operator()(hwloc_topology* topology) const { hwloc_topology_destroy(topology); }
};
using Topology = std::unique_ptr<hwloc_topology, DestroyTopology>;

CpuSet ToCpuSet(hwloc_const_bitmap_t bitmap) {
  CpuSet cpus;
  const int end = hwloc_bitmap_last(bitmap);
  for (int cpu = 0; cpu <= end; ++cpu) {
    if (hwloc_bitmap_isset(bitmap, static_cast<unsigned>(cpu)) != 0) cpus.push_back(cpu);
  }
  return cpus;
}

/// description: null for this host.
absl::StatusOr<std::vector<CpuCore>> LoadCores(const char* description) {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) return Internal("hwloc_topology_init failed");
  const Topology topology(raw);
  if (description != nullptr && hwloc_topology_set_synthetic(raw, description) != 0) {
    return InvalidArgument("hwloc does not read the topology '{}'", description);
  }
  if (hwloc_topology_load(raw) != 0) {
    return Internal("hwloc cannot read this host's topology: {}", ErrnoText(errno));
  }
  const bool has_cores = hwloc_get_nbobjs_by_type(raw, HWLOC_OBJ_CORE) > 0;
  const hwloc_obj_type_t type = has_cores ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
  std::vector<CpuCore> cores;
  for (hwloc_obj_t core = nullptr;
       (core = hwloc_get_next_obj_by_type(raw, type, core)) != nullptr;) {
    // A core near several memories (plain and high-bandwidth) counts to the first.
    const int node = core->nodeset != nullptr ? hwloc_bitmap_first(core->nodeset) : 0;
    cores.push_back({.node = std::max(0, node), .cpus = ToCpuSet(core->cpuset)});
  }
  return cores;
}

bool Overlap(const CpuSet& a, const CpuSet& b) {
  return std::any_of(a.begin(), a.end(),
                     [&](int cpu) { return std::binary_search(b.begin(), b.end(), cpu); });
}

/// `cores` without the processors that are not allowed.
std::vector<CpuCore> Allowed(const std::vector<CpuCore>& cores, const CpuSet& allowed) {
  std::vector<CpuCore> result;
  for (const CpuCore& core : cores) {
    CpuCore rest{.node = core.node, .cpus = {}};
    std::set_intersection(core.cpus.begin(), core.cpus.end(), allowed.begin(), allowed.end(),
                          std::back_inserter(rest.cpus));
    if (!rest.cpus.empty()) result.push_back(std::move(rest));
  }
  return result;
}

CpuSet CpusOf(const std::vector<CpuCore>& cores) {
  CpuSet cpus;
  for (const CpuCore& core : cores) cpus.insert(cpus.end(), core.cpus.begin(), core.cpus.end());
  std::sort(cpus.begin(), cpus.end());
  return cpus;
}

/// Cores that some ranks share evenly.
struct Domain {
  std::vector<CpuCore> cores;
  std::vector<size_t> members;  // of the ranks that share, in order

  int Share() const {
    return std::max(1, static_cast<int>(cores.size() / std::max<size_t>(1, members.size())));
  }
};

/// The cores of `sharers` ranks: one domain a node (or run of nodes), or a single one.
std::vector<Domain> Divide(const std::vector<CpuCore>& cores, size_t sharers, bool by_nodes) {
  std::set<int> numbers;
  for (const CpuCore& core : cores) numbers.insert(core.node);
  const std::vector<int> nodes(numbers.begin(), numbers.end());
  const size_t count = by_nodes ? std::min(sharers, nodes.size()) : 1;
  std::vector<Domain> domains(count);
  for (const CpuCore& core : cores) {
    const auto at = static_cast<size_t>(std::lower_bound(nodes.begin(), nodes.end(), core.node) -
                                        nodes.begin());
    domains[at * count / nodes.size()].cores.push_back(core);
  }
  for (size_t i = 0; i < sharers; ++i) domains[i % count].members.push_back(i);
  return domains;
}

int ThreadsOf(const CpuWish& wish, const Domain& domain) {
  return wish.threads > 0 ? wish.threads : domain.Share();
}

std::string NodesText(const Domain& domain) {
  std::set<int> nodes;
  for (const CpuCore& core : domain.cores) nodes.insert(core.node);
  return fmt::format("{} {}", nodes.size() == 1 ? "node" : "nodes", fmt::join(nodes, ","));
}

}  // namespace

absl::StatusOr<std::vector<CpuCore>> CoresOfThisHost() { return LoadCores(nullptr); }

absl::StatusOr<std::vector<CpuCore>> SyntheticCores(const std::string& description) {
  return LoadCores(description.c_str());
}

CpuSet AllowedCpus() {
  // Grows until the system's own set fits.
  for (int count = CPU_SETSIZE; count <= (1 << 20); count *= 2) {
    cpu_set_t* set = CPU_ALLOC(static_cast<size_t>(count));
    const size_t size = CPU_ALLOC_SIZE(static_cast<size_t>(count));
    CpuSet cpus;
    const bool fits = sched_getaffinity(0, size, set) == 0;
    for (int cpu = 0; fits && cpu < count; ++cpu) {
      if (CPU_ISSET_S(static_cast<size_t>(cpu), size, set)) cpus.push_back(cpu);
    }
    CPU_FREE(set);
    if (fits) return cpus;
  }
  return {0};
}

absl::Status BindThisThread(const CpuSet& cpus) {
  const auto count = static_cast<size_t>(cpus.back()) + 1;
  cpu_set_t* set = CPU_ALLOC(count);
  const size_t size = CPU_ALLOC_SIZE(count);
  CPU_ZERO_S(size, set);
  for (const int cpu : cpus) CPU_SET_S(static_cast<size_t>(cpu), size, set);
  const int code = sched_setaffinity(0, size, set);
  const int error = errno;
  CPU_FREE(set);
  if (code == 0) return absl::OkStatus();
  return FailedPrecondition("cannot bind a thread to processors {}: {}; try --pin none",
                            fmt::join(cpus, ","), ErrnoText(error));
}

CpuPlacement PlaceRank(const std::vector<CpuCore>& all_cores, const std::vector<CpuWish>& wishes,
                       Pinning pinning, int local_rank) {
  const CpuWish& mine = wishes[static_cast<size_t>(local_rank)];
  std::vector<const CpuWish*> sharers;
  size_t my_place = 0;
  bool tangled = false;
  for (size_t i = 0; i < wishes.size(); ++i) {
    if (i == static_cast<size_t>(local_rank)) my_place = sharers.size();
    if (wishes[i].allowed == mine.allowed) {
      sharers.push_back(&wishes[i]);
    } else {
      tangled = tangled || Overlap(wishes[i].allowed, mine.allowed);
    }
  }
  const std::vector<CpuCore> cores = Allowed(all_cores, mine.allowed);
  const std::vector<Domain> domains = Divide(cores, sharers.size(), pinning != Pinning::kNone);

  int all_threads = 0;
  bool fits = !tangled;
  for (const Domain& domain : domains) {
    int threads = 0;
    for (const size_t i : domain.members) threads += ThreadsOf(*sharers[i], domain);
    fits = fits && threads <= static_cast<int>(domain.cores.size());
    all_threads += threads;
  }

  const Domain& domain = domains[my_place % domains.size()];
  CpuPlacement placement;
  placement.threads = ThreadsOf(mine, domain);
  placement.may_poll = !tangled && all_threads <= static_cast<int>(mine.allowed.size());
  if (pinning == Pinning::kNone || (pinning == Pinning::kNodes && domains.size() == 1)) {
    return placement;
  }
  if (!fits) {
    placement.text = tangled ? "not bound: ranks share some of their processors, but not all"
                             : "not bound: this host's ranks have more threads than cores";
    return placement;
  }
  if (pinning == Pinning::kNodes) {
    placement.cpus = CpusOf(domain.cores);
    placement.text = "bound to " + NodesText(domain);
    return placement;
  }
  auto core = domain.cores.begin();
  for (const size_t i : domain.members) {
    if (i == my_place) break;
    core += ThreadsOf(*sharers[i], domain);
  }
  const std::vector<CpuCore> own(core, core + placement.threads);
  placement.cpus = CpusOf(own);
  for (const CpuCore& each : own) placement.thread_cpus.push_back(each.cpus);
  placement.text = fmt::format("bound to processors {}", fmt::join(placement.cpus, ","));
  return placement;
}

template <typename Archive>
void Fields(Archive& archive, CpuWish& wish) {
  archive(wish.threads, core::AtMost(wish.allowed, 1 << 16, "processors"));
}

absl::StatusOr<CpuPlacement> AgreeOnPlacement(Communicator& world, Pinning pinning, int threads) {
  const CpuSet allowed = AllowedCpus();
  TANDEM_ASSIGN_OR_RETURN(const std::vector<CpuWish> all,
                          GatherMessages(world, CpuWish{.allowed = allowed, .threads = threads}));
  std::vector<CpuWish> wishes;
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (world.hosts()[rank] == world.host()) wishes.push_back(all[rank]);
  }

  absl::StatusOr<std::vector<CpuCore>> cores = CoresOfThisHost();
  if (cores.ok() && Allowed(*cores, allowed).empty()) {
    cores = Internal("hwloc does not know the processors that this process may use");
  }
  if (!cores.ok()) {
    spdlog::warn("{}: {}; every processor counts as a core of one node",
                 RankOnHost(world, world.rank()), Message(cores.status()));
    cores.emplace();
    for (const int cpu : allowed) cores->push_back({.node = 0, .cpus = {cpu}});
  }
  return PlaceRank(*cores, wishes, pinning, world.local_rank());
}

}  // namespace tandem::parallel
