#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <thread>

#include "core/base/mutex.h"
#include "core/base/status.h"
#include "launcher/supervision/rank_life.h"
#include "launcher/supervision/restart_policy.h"
#include "launcher/supervision/spare_hosts.h"
#include "launcher/supervision/step_watch.h"
#include "parallel/engine/recovering_engine.h"

namespace tandem::launcher {

/// Starts ranks, and starts them again when one dies, is stopped or is cut off, with the next
/// epoch.
///
/// Whoever uses the engine notices a pause. A thread waits for the end of a life, kills what is
/// left of it, and starts the next one, at most LaunchOptions::max_restarts times within an hour;
/// then the engine dies of what the last life died of. Thread safety: engine() is; the rest is for
/// one thread.
class Supervisor {
 public:
  /// Starts the first life. Errors: those of RankLife::Start.
  static absl::StatusOr<std::unique_ptr<Supervisor>> Start(const RankLifeOrder& order);
  ~Supervisor();

  parallel::Engine& engine() { return engine_; }

  /// As RankLife::End.
  absl::Status End(absl::Status status);

 private:
  using Clock = std::chrono::steady_clock;

  explicit Supervisor(const RankLifeOrder& order);
  /// A life of the next epoch, as `launch` says.
  absl::StatusOr<std::unique_ptr<RankLife>> StartLife(const LaunchOptions& launch);
  /// Requests go there from now on.
  void Enter(std::unique_ptr<RankLife> life);
  bool Gone() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return gone_.contains(life_epoch_); }
  void Watch();
  /// Until there is something to do: the life is gone, or does nothing any more, which is told; a
  /// change was asked for; a lost host is back; all is to end.
  absl::Status AwaitNews();
  void Recover(const absl::Status& stuck);
  /// Starts other ranks beside those that are there, and lets requests move to them.
  absl::Status MoveTo(const LaunchOptions& launch);
  /// Whether requests go on with the new ranks as they would with the old ones.
  absl::Status CheckRoom(parallel::Engine& new_ranks);
  /// Ends a life that nobody uses any more, while the next one is watched.
  void EndBeside(std::shared_ptr<RankLife> life);
  void JoinEnding();
  /// To hosts that are back.
  void MoveToHosts();
  void TakeScale(int ranks, const parallel::Engine::ScaleDone& done);
  /// Starts as many ranks as were asked for, and lets requests move to them.
  void Scale();
  bool SleepUnlessStopping(Clock::duration time);

  // Before the engine, whose lives use them until they are gone.
  Mutex mutex_;
  CondVar changed_;
  struct ScaleOrder {
    int ranks = 0;
    parallel::Engine::ScaleDone done;
  };
  std::set<uint64_t> gone_ ABSL_GUARDED_BY(mutex_);          // epochs
  std::optional<ScaleOrder> scale_ ABSL_GUARDED_BY(mutex_);  // until it is done
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);  // of End

  const bool elastic_;
  RankLifeOrder order_;  // of the last life
  parallel::RecoveringEngine engine_;
  RestartPolicy policy_;
  StepWatch steps_;
  std::unique_ptr<SpareHosts> hosts_;  // null: as the options name them
  std::unique_ptr<RankLife> life_;     // null: none
  uint64_t life_epoch_ = 0;            // its
  Clock::time_point began_;
  bool hosts_back_ = false;
  std::thread ending_;  // of the life before
  std::thread thread_;
};

}  // namespace tandem::launcher
