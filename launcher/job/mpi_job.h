#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/mutex.h"
#include "core/base/status.h"
#include "launcher/options/options.h"

namespace tandem::launcher {

/// Where what the ranks write to standard output goes.
enum class JobOutput { kStandardError, kStandardOutput };

/// A rank job as a child process: mpirun and the ranks it starts.
///
/// mpirun's own notices are read, not shown: of them comes the reason for the job's end, with rank
/// and host. What the ranks write to standard error is passed on. The child dies with this process,
/// and gets no terminal signals. Thread safety: Stop and the destructor from one thread; `on_end`
/// is called from the job's own.
class MpiJob {
 public:
  using OnEnd = std::function<void(const absl::Status& why)>;

  /// Starts `command` (program and arguments) on launch.ranks ranks, with `environment` added on
  /// all of them. `on_end` is called once when the job has ended, however it did. Errors: no
  /// mpirun, no hostfile.
  static absl::StatusOr<std::unique_ptr<MpiJob>> Start(
      const LaunchOptions& launch, const std::vector<std::string>& command,
      const std::vector<std::pair<std::string, std::string>>& environment, OnEnd on_end,
      JobOutput output = JobOutput::kStandardError);
  /// Stops the job.
  ~MpiJob();
  MpiJob(const MpiJob&) = delete;
  MpiJob& operator=(const MpiJob&) = delete;

  /// Ends the job: waits for it to end by itself for `grace`, then asks, then kills. Returns when
  /// all its processes are gone.
  void Stop(std::chrono::milliseconds grace);

 private:
  MpiJob(pid_t pid, int error_pipe, OnEnd on_end);
  void ReadErrors(int error_pipe);
  bool WaitUntilEnded(std::chrono::milliseconds time);

  const pid_t pid_;
  const OnEnd on_end_;
  Mutex mutex_;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

/// The reason in mpirun's notices: "rank 1 on host n2 was ended by signal 9 (Killed)", or empty if
/// they do not say.
std::string ReasonFromMpirun(const std::string& notices);

}  // namespace tandem::launcher
