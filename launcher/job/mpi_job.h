#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <functional>
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

namespace tandem::launcher {

/// Where what the ranks write to standard output goes, if not into a file.
inline constexpr int kToStandardError = -1;

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

  /// Starts `command` (program and arguments) on launch.ranks ranks. `input`: what rank 0 reads
  /// from its standard input, at most 4096 bytes. `on_end` is called once when the job has ended,
  /// however it did. `output`: descriptor of a file for what the ranks write. Errors: no mpirun, no
  /// hostfile, no room for temporary files. `signals`: what cleans up before a signal ends this
  /// process, or null where none does.
  static absl::StatusOr<std::unique_ptr<MpiJob>> Start(const LaunchOptions& launch,
                                                       const std::vector<std::string>& command,
                                                       const std::string& input, OnEnd on_end,
                                                       int output = kToStandardError,
                                                       CleanupSignals* signals = nullptr);
  /// Stops the job.
  ~MpiJob();
  MpiJob(const MpiJob&) = delete;
  MpiJob& operator=(const MpiJob&) = delete;

  /// Ends the job: waits for it to end by itself for `grace`, then asks, then kills. Returns when
  /// all its processes are gone.
  void Stop(std::chrono::milliseconds grace);

  /// Ends the job, which has failed, and adds to `why` where the rest of what mpirun said is kept.
  /// An error that a rank has told of itself is marked as reported.
  absl::Status Explain(absl::Status why);

 private:
  static absl::StatusOr<std::unique_ptr<MpiJob>> Launch(const LaunchOptions& launch,
                                                        const std::vector<std::string>& command,
                                                        const std::string& input, OnEnd on_end,
                                                        int output);
  MpiJob(pid_t pid, int error_pipe, TemporaryFolder folder, std::optional<std::string> waits_for,
         OnEnd on_end);
  /// Ends the job at once and removes its temporary files. From any thread.
  void CleanUp();
  void ReadErrors(int error_pipe);
  void End(std::chrono::milliseconds grace);
  bool WaitUntilEnded(std::chrono::milliseconds time);

  const pid_t pid_;
  const TemporaryFolder folder_;                // of mpirun's session
  const std::optional<std::string> waits_for_;  // other hosts, where there may be some
  const OnEnd on_end_;
  Mutex mutex_;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  std::string notices_file_ ABSL_GUARDED_BY(mutex_);  // empty: none is kept
  bool told_by_rank_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<bool> stopping_ = false;
  std::thread thread_;
  CleanupSignals::Registration cleanup_;
};

/// The reason in mpirun's notices: "rank 1 on host n2 was ended by signal 9 (Killed)", or empty if
/// they do not say.
std::string ReasonFromMpirun(const std::string& notices);

}  // namespace tandem::launcher
