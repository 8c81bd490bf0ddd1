#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "core/base/mutex.h"
#include "core/base/status.h"
#include "core/base/temporary_folder.h"
#include "launcher/options/options.h"
#include "launcher/supervision/host_pool.h"
#include "launcher/supervision/host_probe.h"

namespace tandem::launcher {

/// Where the next ranks are started, of a job whose hosts get lost and come back: a hostfile for
/// each life, and looks for lost hosts now and then.
///
/// Thread safety: Unreached from any thread; the rest is for one.
class SpareHosts {
 public:
  using Clock = std::chrono::steady_clock;

  /// Null where the options say nothing of lost hosts, so that mpirun takes what they name.
  /// kInvalidArgument: --spares without a hostfile that has hosts.
  static absl::StatusOr<std::unique_ptr<SpareHosts>> Make(const LaunchOptions& launch);

  /// A host cannot be reached.
  void Unreached(const std::string& host);
  /// Counts those as lost; whether that is news.
  bool TakeUnreached();
  /// Whether a lost host can be reached again, which is then in use. Call it now and then.
  bool Back(Clock::time_point now);

  /// Ranks did not start on the host that Back has told of: it counts as lost again for a while.
  void NotBack(Clock::time_point now);

  /// As HostPool::Want.
  void Want(int ranks) { pool_.Want(ranks); }

  /// What to start now: hostfile and number of ranks. kUnavailable: too few hosts are left.
  absl::StatusOr<LaunchOptions> Choose();

 private:
  SpareHosts(const LaunchOptions& launch, HostPool pool, TemporaryFolder folder);

  const LaunchOptions launch_;  // as the user gave it
  HostPool pool_;
  const TemporaryFolder folder_;
  int files_ = 0;
  std::unique_ptr<HostProbe> probe_;
  std::string last_probed_;
  std::string last_back_;
  std::optional<Clock::time_point> next_probe_;
  Mutex mutex_;
  std::set<std::string> unreached_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tandem::launcher
