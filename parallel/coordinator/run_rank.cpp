#include "parallel/coordinator/run_rank.h"

#include <utility>

#include "core/base/isa.h"
#include "parallel/control/thread_control.h"
#include "parallel/rank/worker.h"

namespace tandem::parallel {

absl::StatusOr<std::unique_ptr<Coordinator>> RunLeader(const RankOptions& options,
                                                       Communicator& world, core::Model& model,
                                                       std::unique_ptr<ControlLeader> leader) {
  TANDEM_ASSIGN_OR_RETURN(RankSetup setup, SetUpRank(options, world, model));
  if (options.on_set_up) options.on_set_up();
  return std::make_unique<Coordinator>(
      std::move(setup), std::move(leader),
      CoordinatorOptions{.max_waiting = options.max_waiting,
                         .plan_ahead = world.size() > 1,
                         .spare_streams = options.spare_streams,
                         .speculate = options.speculate,
                         .fetch_deadline = options.records.fetch_deadline,
                         .least_fetch_deadline = options.records.least_fetch_deadline,
                         .flush_deadline = options.records.flush_deadline,
                         .on_step_thread = options.on_step_thread,
                         .abort_world = [&world](const absl::Status& why) { world.Abort(why); },
                         .watchdog = options.watchdog});
}

absl::StatusOr<std::unique_ptr<Coordinator>> RunRank(const RankOptions& options,
                                                     Communicator& world, core::Model& model) {
  if (world.size() == 1) {
    return RunLeader(options, world, model, MakeThreadControl(world.hosts()).leader);
  }
  TANDEM_ASSIGN_OR_RETURN(ControlEnd end, ConnectZmqControl(options.control, world));
  if (world.rank() == 0) return RunLeader(options, world, model, std::move(end.leader));
  TANDEM_RETURN_IF_ERROR(RunFollower(options, world, model, *end.follower));
  return nullptr;
}

absl::Status RunFollower(const RankOptions& options, Communicator& world, core::Model& model,
                         ControlFollower& follower) {
  core::SetFloatEnvironment();
  const absl::StatusOr<RankSetup> setup = SetUpRank(options, world, model);
  TANDEM_RETURN_IF_ERROR(setup.status());
  if (options.on_set_up) options.on_set_up();
  if (setup->spilled) {
    setup->spilled->Listen([&follower](const RecordReport& report) { follower.Report(report); });
  }
  if (setup->records) {
    setup->records->Listen([&follower](const RecordReport& report) { follower.Report(report); },
                           [](FetchId, SavedTokens) {});
  }
  if (options.on_step_thread) options.on_step_thread();
  if (options.watchdog == nullptr) return FollowPlans(follower, *setup->runner, options.epoch);
  options.watchdog->TellFirst(
      [&follower](const StalledCollective& stalled) {
        follower.Stalled(Unavailable("{}", stalled.text));
      },
      kStallGrace);
  absl::Status status = FollowPlans(follower, *setup->runner, options.epoch);
  options.watchdog->TellFirst(nullptr, {});
  return status;
}

}  // namespace tandem::parallel
