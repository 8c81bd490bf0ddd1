#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "core/base/mutex.h"
#include "core/base/status.h"
#include "launcher/job/mpi_job.h"
#include "launcher/options/cleanup_signals.h"
#include "launcher/options/options.h"
#include "parallel/engine/remote_engine.h"

namespace tandem::launcher {

/// What one life of the ranks is to be.
struct RankLifeOrder {
  ModelOptions model;
  LaunchOptions launch;
  uint64_t epoch = 0;
  /// Asked every 50 ms while the ranks start; its error ends the start, and is returned.
  std::function<absl::Status()> keep_waiting;
  /// Called once by a thread of the life's when its ranks are gone, perhaps before it is known why.
  /// May be empty.
  std::function<void()> on_gone;
  /// After that, the reason is waited for so long.
  std::chrono::milliseconds reason_wait{4000};
  /// As MpiJobOrder::on_unreached.
  std::function<void(const std::string& host)> on_unreached = {};
  CleanupSignals* signals = nullptr;  // what cleans up before a signal ends this process
};

/// Ranks that mpirun has started, and the link to their engine: one epoch. Thread safety: none, but
/// for the engine.
class RankLife {
 public:
  /// Returns when rank 0 answers. Errors: those of MpiJob::Start; kUnavailable, with the reason, if
  /// the ranks end before.
  static absl::StatusOr<std::unique_ptr<RankLife>> Start(const RankLifeOrder& order);
  /// Stops the ranks.
  ~RankLife();

  const std::shared_ptr<parallel::RemoteEngine>& engine() const { return engine_; }

  /// Ends the ranks because whoever used them has ended with `status`: in good order where they
  /// live; else adds to a bad status where the rest of what mpirun said is kept.
  absl::Status End(absl::Status status);
  /// Why the ranks are gone, which is waited for.
  absl::Status Reason();
  /// Ends the ranks at once, also those that are stopped; other hosts see to theirs by themselves.
  void Kill();

 private:
  class News;

  RankLife();

  std::unique_ptr<News> news_;
  std::unique_ptr<MpiJob> job_;
  std::shared_ptr<parallel::RemoteEngine> engine_;
};

}  // namespace tandem::launcher
