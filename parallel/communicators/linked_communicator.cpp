#include "parallel/communicators/linked_communicator.h"

#include <chrono>
#include <thread>
#include <utility>

#include "core/base/wire.h"
#include "parallel/communicators/agree_on_status.h"
#include "parallel/communicators/gather_messages.h"

namespace tandem::parallel {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kHealthPause{5};  // between questions how the link is

/// What a rank says of its linker.
struct LinkerFacts {
  std::string name;     // empty: there is none
  std::string problem;  // why
  bool joins_shared_devices = false;
  bool shares_device = false;
};

template <typename Archive>
void Fields(Archive& archive, LinkerFacts& facts) {
  archive(core::AtMost(facts.name, 1 << 8, "bytes of a library's name"),
          core::AtMost(facts.problem, 1 << 12, "bytes of a problem"), facts.joins_shared_devices,
          facts.shares_device);
}

LinkerFacts FactsOf(const LinkWish& wish) {
  LinkerFacts facts{.name = {}, .problem = {}, .shares_device = wish.shares_device};
  if (!wish.linker.ok()) {
    facts.problem = Message(wish.linker.status()).substr(0, 1 << 12);
  } else if (*wish.linker != nullptr) {
    facts.name = (*wish.linker)->name();
    facts.joins_shared_devices = (*wish.linker)->joins_shared_devices();
  }
  return facts;
}

/// Why these ranks cannot be joined, or nothing.
std::string ProblemOf(const Communicator& world, const std::vector<LinkerFacts>& all) {
  bool shared = false;
  for (int rank = 0; rank < world.size(); ++rank) {
    const LinkerFacts& facts = all[static_cast<size_t>(rank)];
    if (facts.name.empty()) {
      return fmt::format("{}: {}", RankOnHost(world, rank),
                         facts.problem.empty() ? "its device has no link" : facts.problem);
    }
    if (facts.name != all[0].name) {
      return fmt::format("{} has {}, but {} has {}; install the same everywhere",
                         RankOnHost(world, rank), facts.name, RankOnHost(world, 0), all[0].name);
    }
    shared = shared || facts.shares_device;
  }
  if (shared && !all[0].joins_shared_devices) {
    return fmt::format("ranks share GPUs, which {} does not join", all[0].name);
  }
  return {};
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
  TANDEM_ASSIGN_OR_RETURN(const std::vector<LinkerFacts> all, GatherMessages(world, FactsOf(wish)));
  LinkedWorld linked;
  linked.problem = ProblemOf(world, all);
  if (!linked.problem.empty()) return linked;
  const core::DeviceLinker& linker = **wish.linker;
  absl::StatusOr<core::DeviceLinkId> id = core::DeviceLinkId();
  if (world.rank() == 0) id = linker.NewId();
  TANDEM_RETURN_IF_ERROR(AgreeOnStatus(world, id.status()));
  TANDEM_RETURN_IF_ERROR(world.Broadcast(*id));
  bool shared = false;
  for (const LinkerFacts& facts : all) shared = shared || facts.shares_device;
  auto link = linker.Join(wish.device, *id,
                          {.rank = world.rank(),
                           .ranks = world.size(),
                           .shares_device = shared,
                           .patience = wish.patience});
  TANDEM_RETURN_IF_ERROR(AgreeOnStatus(world, link.status()));
  linked.world = std::make_unique<LinkedCommunicator>(world, *std::move(link));
  return linked;
}

}  // namespace tandem::parallel
