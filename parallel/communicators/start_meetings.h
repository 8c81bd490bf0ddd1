#pragma once

#include <mpi.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/base/mutex.h"
#include "parallel/start/start_table.h"
#include "parallel/start/start_watch.h"

namespace tandem::parallel {

/// Meetings of all ranks of an MPI world before each collective of their start, where those that
/// wait hear how the others get on, and end the job if one stands still.
///
/// A rank's signs are small MPI messages to all others, from its watch's thread while it works, and
/// from Meet while it waits. Whoever calls MPI until Finish holds the mutex. The last signs may
/// still be on their way then: it must live until MPI is finalized.
class StartMeetings {
 public:
  /// Of MPI_COMM_WORLD.
  StartMeetings(StartWatch& watch, int size);
  ~StartMeetings() { Finish(); }
  StartMeetings(const StartMeetings&) = delete;
  StartMeetings& operator=(const StartMeetings&) = delete;

  Mutex& mutex() ABSL_LOCK_RETURNED(mutex_) { return mutex_; }
  /// Returns MPI's code once all ranks have come.
  int Meet() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  StartWatch& watch() { return watch_; }
  /// No more signs are sent.
  void Finish() { watch_.Publish(nullptr); }

 private:
  /// As it travels between processes of one build.
  struct Wire {
    int32_t rank;
    int32_t phase;
    int32_t percent;
    std::array<char, 116> host;
  };
  struct Sent {
    Wire wire;
    MPI_Request request = MPI_REQUEST_NULL;
  };

  void Tell(const StartNews& news) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Listen() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Judge(std::chrono::steady_clock::duration passed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  StartWatch& watch_;
  Mutex mutex_;
  std::vector<Sent> sent_ ABSL_GUARDED_BY(mutex_);  // [size]: to each rank
  StartTable table_ ABSL_GUARDED_BY(mutex_);
  std::optional<StartPhase> told_ ABSL_GUARDED_BY(mutex_);  // of the last sign
};

}  // namespace tandem::parallel
