#include "parallel/links/linked_communicator.h"

#include <chrono>
#include <thread>
#include <utility>

#include "core/base/wire.h"
#include "parallel/communicators/agree_on_status.h"
#include "parallel/communicators/gather_messages.h"
#include "parallel/links/link_times.h"
#include "parallel/links/paired_link.h"

namespace tandem::parallel {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kHealthPause{5};  // between questions how the link is

/// What a rank says of a linker.
struct LinkerFacts {
  std::string name;     // empty: there is none
  std::string problem;  // why; empty: it is not wanted
  bool joins_shared_devices = false;
  bool joins_hosts = false;
  int32_t most_ranks = 0;
};

template <typename Archive>
void Fields(Archive& archive, LinkerFacts& facts) {
  archive(core::AtMost(facts.name, 1 << 8, "bytes of a library's name"),
          core::AtMost(facts.problem, 1 << 12, "bytes of a problem"), facts.joins_shared_devices,
          facts.joins_hosts, facts.most_ranks);
}

/// What a rank says of what it has.
struct LinkFacts {
  LinkerFacts linker;
  LinkerFacts peers;
  bool shares_device = false;
};

template <typename Archive>
void Fields(Archive& archive, LinkFacts& facts) {
  archive(facts.linker, facts.peers, facts.shares_device);
}

using Linker = absl::StatusOr<std::unique_ptr<core::DeviceLinker>>;

LinkerFacts FactsOf(const Linker& linker) {
  LinkerFacts facts;
  if (!linker.ok()) {
    facts.problem = Message(linker.status()).substr(0, 1 << 12);
  } else if (*linker != nullptr) {
    facts.name = (*linker)->name();
    facts.joins_shared_devices = (*linker)->joins_shared_devices();
    facts.joins_hosts = (*linker)->joins_hosts();
    facts.most_ranks = (*linker)->most_ranks();
  }
  return facts;
}

/// A linker as all ranks have it.
struct WorldLinker {
  const Linker& mine;
  std::vector<LinkerFacts> facts;  // [ranks]
  std::chrono::milliseconds patience;
  bool shared = false;  // some ranks share a device
  bool floats = false;

  bool wanted() const { return !facts[0].name.empty() || !facts[0].problem.empty(); }
};

/// Why these ranks cannot be joined, or nothing.
std::string ProblemOf(const Communicator& world, const WorldLinker& linker) {
  const LinkerFacts& first = linker.facts[0];
  for (int rank = 0; rank < world.size(); ++rank) {
    const LinkerFacts& facts = linker.facts[static_cast<size_t>(rank)];
    if (facts.name.empty()) {
      return fmt::format("{}: {}", RankOnHost(world, rank),
                         facts.problem.empty() ? "its device has no link" : facts.problem);
    }
    if (facts.name != first.name) {
      return fmt::format("{} has {}, but {} has {}; install the same everywhere",
                         RankOnHost(world, rank), facts.name, RankOnHost(world, 0), first.name);
    }
    if (!first.joins_hosts && world.hosts()[static_cast<size_t>(rank)] != world.hosts()[0]) {
      return fmt::format("{} joins ranks of one host, and there are {} and {}", first.name,
                         RankOnHost(world, 0), RankOnHost(world, rank));
    }
  }
  if (linker.shared && !first.joins_shared_devices) {
    return fmt::format("ranks share GPUs, which {} does not join", first.name);
  }
  if (world.size() > first.most_ranks) {
    return fmt::format("{} joins {} ranks at most, and there are {}", first.name, first.most_ranks,
                       world.size());
  }
  return {};
}

/// A link between all ranks, or why there is none.
struct Joined {
  std::unique_ptr<core::DeviceLink> link;
  std::string problem;
  /// Of a link that failed though all had what is needed.
  absl::Status failure;
};

/// Errors: those of `world`.
absl::StatusOr<Joined> Join(Communicator& world, core::Operations& device,
                            const WorldLinker& linker) {
  Joined joined;
  joined.problem = ProblemOf(world, linker);
  if (!joined.problem.empty()) return joined;
  absl::StatusOr<core::DeviceLinkId> id = core::DeviceLinkId();
  if (world.rank() == 0) id = (*linker.mine)->NewId();
  joined.failure = AgreeOnStatus(world, id.status());
  if (joined.failure.ok()) {
    TANDEM_RETURN_IF_ERROR(world.Broadcast(*id));
    auto link =
        (*linker.mine)
            ->Join(device, *id,
                   {.rank = world.rank(),
                    .ranks = world.size(),
                    .shares_device = linker.shared,
                    .floats = linker.floats,
                    .patience = linker.patience},
                   [&](std::span<const std::byte> mine) { return GatherBytes(world, mine); });
    joined.failure = AgreeOnStatus(world, link.status());
    if (joined.failure.ok()) joined.link = *std::move(link);
  }
  joined.problem = Message(joined.failure);
  return joined;
}

/// The same for peers, whose failures end nothing, and who are tried first: GPUs may map each
/// other's memory and yet not see what is written there.
absl::StatusOr<Joined> JoinPeers(Communicator& world, core::Operations& device,
                                 const WorldLinker& linker) {
  TANDEM_ASSIGN_OR_RETURN(Joined joined, Join(world, device, linker));
  if (joined.link == nullptr) return joined;
  joined.failure = CheckLink(world, device, *joined.link);
  if (joined.failure.ok()) return joined;
  joined.link.reset();
  joined.problem = Message(joined.failure);
  return joined;
}

/// Takes peers for what they do faster.
absl::Status Pair(Communicator& world, core::Operations& device, Joined peers, Joined& linked,
                  std::string& note) {
  TANDEM_ASSIGN_OR_RETURN(const LinkTimes of_peers, TimeLink(world, device, *peers.link));
  TANDEM_ASSIGN_OR_RETURN(const LinkTimes of_linked, TimeLink(world, device, *linked.link));
  const size_t bytes = FasterUpTo(of_peers, of_linked);
  note = fmt::format("{} by {}, by {} {}", TimeText(of_peers, bytes), peers.link->name(),
                     linked.link->name(), TimeText(of_linked, bytes));
  if (bytes == 0) return absl::OkStatus();
  std::string name = fmt::format("{}, and up to {} KiB by {}", linked.link->name(), bytes >> 10,
                                 peers.link->name());
  linked.link = std::make_unique<PairedLink>(std::move(peers.link), std::move(linked.link), bytes,
                                             std::move(name));
  return absl::OkStatus();
}

/// Drops peers that share devices where hosts are faster with few tokens, which is what counts
/// there.
absl::Status CompareWithHosts(Communicator& world, core::Operations& device, Joined& peers) {
  constexpr size_t kFewTokens = 32 << 10;  // bytes of them
  TANDEM_ASSIGN_OR_RETURN(const LinkTimes of_peers, TimeLink(world, device, *peers.link));
  TANDEM_ASSIGN_OR_RETURN(const LinkTimes of_hosts, TimeThroughHosts(world, device));
  if (FasterUpTo(of_peers, of_hosts) >= kFewTokens) return absl::OkStatus();
  peers.problem = fmt::format("ranks share GPUs, where that is the faster way: {}, by {} {}",
                              TimeText(of_hosts, kFewTokens), peers.link->name(),
                              TimeText(of_peers, kFewTokens));
  peers.link.reset();
  return absl::OkStatus();
}

}  // namespace

absl::Status LinkedCommunicator::WaitForDevice(absl::FunctionRef<bool()> done,
                                               absl::FunctionRef<core::DevicePlace()> place) {
  if (!error_.ok()) return error_;
  const uint64_t before = board() == nullptr ? 0 : board()->Read(rank()).collectives;
  const auto publish = [&](const core::DevicePlace& at, bool waiting) {
    if (board() == nullptr) return;
    board()->Put(rank(), {.phase = at.phase,
                          .collectives = before + at.reductions + (waiting ? 1 : 0),
                          .waiting = waiting,
                          .since = Clock::now()});
  };
  core::DevicePlace at = place();
  publish(at, true);
  const auto check = [&]() -> absl::Status {
    absl::Status health = link_->Health();
    if (health.ok()) return health;
    link_->Abort();
    return error_ = Unavailable("{} in {}: {}", RankOnHost(*this, rank()), PhaseText(at.phase),
                                Message(health));
  };
  auto asked = Clock::now();
  while (!done()) {
    const core::DevicePlace now = place();
    if (now.reductions != at.reductions) publish(at = now, true);
    if (Clock::now() - asked < kHealthPause) {
      std::this_thread::yield();
      continue;
    }
    asked = Clock::now();
    TANDEM_RETURN_IF_ERROR(check());
  }
  // What was given up is done, too.
  TANDEM_RETURN_IF_ERROR(check());
  publish(place(), false);
  return absl::OkStatus();
}

absl::StatusOr<LinkedWorld> LinkDevices(Communicator& world, const LinkWish& wish) {
  TANDEM_ASSIGN_OR_RETURN(const std::vector<LinkFacts> all,
                          GatherMessages(world, LinkFacts{.linker = FactsOf(wish.linker),
                                                          .peers = FactsOf(wish.peer_linker),
                                                          .shares_device = wish.shares_device}));
  WorldLinker linker{
      .mine = wish.linker, .facts = {}, .patience = wish.patience, .floats = wish.floats};
  WorldLinker peer_linker{.mine = wish.peer_linker, .facts = {}, .patience = wish.patience};
  for (const LinkFacts& facts : all) {
    linker.facts.push_back(facts.linker);
    peer_linker.facts.push_back(facts.peers);
    linker.shared = linker.shared || facts.shares_device;
  }
  peer_linker.shared = linker.shared;

  Joined joined;
  if (linker.wanted()) {
    TANDEM_ASSIGN_OR_RETURN(joined, Join(world, wish.device, linker));
    TANDEM_RETURN_IF_ERROR(joined.failure);
  }
  LinkedWorld linked;
  if (peer_linker.wanted()) {
    TANDEM_ASSIGN_OR_RETURN(Joined peers, JoinPeers(world, wish.device, peer_linker));
    if (peers.link == nullptr) {
      linked.note =
          fmt::format("{} has no part in it: {}", peer_linker.facts[0].name, peers.problem);
      joined.problem += (joined.problem.empty() ? "" : "; ") + peers.problem;
    } else if (joined.link != nullptr) {
      TANDEM_RETURN_IF_ERROR(Pair(world, wish.device, std::move(peers), joined, linked.note));
    } else {
      if (linker.shared && wish.hosts_if_faster) {
        TANDEM_RETURN_IF_ERROR(CompareWithHosts(world, wish.device, peers));
      }
      linked.note = std::exchange(joined.problem, {});
      joined = std::move(peers);
    }
  }
  if (joined.link == nullptr) {
    linked.problem = joined.problem;
    return linked;
  }
  linked.world = std::make_unique<LinkedCommunicator>(world, std::move(joined.link));
  return linked;
}

}  // namespace tandem::parallel
