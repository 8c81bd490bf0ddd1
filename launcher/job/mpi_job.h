#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/base/mutex.h"
#include "core/base/status.h"
#include "core/base/temporary_folder.h"
#include "launcher/options/cleanup_signals.h"
#include "launcher/options/options.h"
#include "parallel/start/start_table.h"

namespace tandem::launcher {

/// Where what the ranks write to standard output goes, if not into a file.
inline constexpr int kToStandardError = -1;

/// What a rank job is to be.
struct MpiJobOrder {
  LaunchOptions launch;
  std::vector<std::string> command;  // program and arguments, on launch.ranks ranks
  /// A rank that gives no sign for so long while it starts ends the job (StartPatience).
  std::chrono::steady_clock::duration patience;
  std::string input = {};         // what rank 0 reads from its standard input, at most 4096 bytes
  int output = kToStandardError;  // descriptor of a file for what the ranks write
  /// Called before the job's end is told, by the job's thread, for each host that cannot be
  /// reached. May be empty.
  std::function<void(const std::string& host)> on_unreached = {};
};

/// A rank job as a child process: mpirun and the ranks it starts.
///
/// What mpirun itself says is read, not shown (but with --log-level debug): of it comes the reason
/// for the job's end, with rank and host, and if the job fails, the rest goes to a file, which
/// Explain names. What the ranks write to standard error is passed on. The child dies with this
/// process, and gets no terminal signals. Where all ranks are on this host, it listens on loopback
/// addresses only. Thread safety: Stop and the destructor from one thread; `on_end` is called from
/// the job's own.
class MpiJob {
 public:
  using OnEnd = std::function<void(const absl::Status& why)>;

  /// `on_end` is called once when the job has ended, however it did. Errors: no mpirun, no
  /// hostfile, no room for temporary files. `signals`: what cleans up before a signal ends this
  /// process, or null where none does.
  static absl::StatusOr<std::unique_ptr<MpiJob>> Start(const MpiJobOrder& order, OnEnd on_end,
                                                       CleanupSignals* signals = nullptr);
  /// Stops the job.
  ~MpiJob();
  MpiJob(const MpiJob&) = delete;
  MpiJob& operator=(const MpiJob&) = delete;

  /// Ends the job: waits for it to end by itself for `grace`, then asks, then kills. Returns when
  /// all its processes are gone.
  void Stop(std::chrono::milliseconds grace);

  /// Ends the job at once: mpirun, and the ranks of this host, also those that are stopped. The
  /// orteds of other hosts end theirs when they miss mpirun. Returns when mpirun is gone.
  void Kill();

  /// Whether all ranks have said that their start is over.
  bool Ready();

  /// Ends the job, which has failed, and adds to `why` where the rest of what mpirun said is kept.
  /// An error that a rank has told of itself is marked as reported.
  absl::Status Explain(absl::Status why);

 private:
  static absl::StatusOr<std::unique_ptr<MpiJob>> Launch(const MpiJobOrder& order, OnEnd on_end);
  MpiJob(const MpiJobOrder& order, pid_t pid, int error_pipe, TemporaryFolder folder,
         std::optional<std::string> waits_for, OnEnd on_end);
  /// Ends the job at once and removes its temporary files. From any thread.
  void CleanUp();
  void ReadErrors(int error_pipe);
  /// Of ranks of this host that were killed: their shared memory.
  void RemoveWhatRanksLeft();
  void Meet(const parallel::StartTable& starts);
  class Overseer;
  void End(std::chrono::milliseconds grace);
  bool WaitUntilEnded(std::chrono::milliseconds time);

  const int ranks_;
  const std::chrono::steady_clock::duration patience_;
  const pid_t pid_;
  const TemporaryFolder folder_;                // of mpirun's session
  const std::optional<std::string> waits_for_;  // other hosts, where there may be some
  const OnEnd on_end_;
  const std::function<void(const std::string& host)> on_unreached_;
  Mutex mutex_;
  bool ready_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  std::string notices_file_ ABSL_GUARDED_BY(mutex_);  // that nobody was told of; empty: none
  bool told_by_rank_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<int, int> local_ranks_ ABSL_GUARDED_BY(mutex_);  // of this host: their processes (pidfd)
  std::atomic<bool> stopping_ = false;
  std::thread thread_;
  CleanupSignals::Registration cleanup_;
};

}  // namespace tandem::launcher
