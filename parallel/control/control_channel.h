#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/base/mutex.h"
#include "core/base/status.h"
#include "parallel/plan/digest.h"
#include "parallel/plan/record_report.h"

namespace tandem::parallel {

/// A follower has done a step; digest and reduce_nanoseconds as in StepResult.
struct Acknowledgement {
  int rank = 0;
  uint64_t step = 0;
  Digest digest{};
  uint64_t reduce_nanoseconds = 0;
};

/// What rank 0 hears of its followers. Called from a thread of the channel, one at a time; must
/// return quickly.
struct ControlEvents {
  std::function<void(const Acknowledgement&)> on_acknowledgement;
  /// A follower tells of its records, at any time.
  std::function<void(const RecordReport&)> on_report = nullptr;
  /// A follower is gone or has given up; the status names rank and host. May be called for several.
  std::function<void(const absl::Status&)> on_lost;
};

/// Rank 0's end of the channel that plans travel on. Implementations: threads of one process
/// (thread_control.h) and ZeroMQ (zmq_control.h). Plans arrive in the order in which they were
/// sent, all or none after. Thread safety: one thread calls; events come from others.
class ControlLeader {
 public:
  virtual ~ControlLeader() = default;

  /// Starts events; before that they wait. Called once.
  virtual void Listen(ControlEvents events) = 0;
  /// An encoded plan to every follower. Does not wait for them.
  virtual absl::Status Send(std::span<const std::byte> plan) = 0;
  /// A collective takes too long, as `why` says: on_lost soon says so, or names the rank that is
  /// silent, if one is. From any thread.
  virtual void Stalled(const absl::Status& why) = 0;
  /// Ends the channel after what was sent has left; no event is delivered once it returns.
  /// Followers that wait learn that rank 0 is gone.
  virtual void Close() = 0;
};

/// A follower's end. Thread safety: one thread calls; Report and Stalled may be called from others,
/// too.
class ControlFollower {
 public:
  virtual ~ControlFollower() = default;

  /// The next plan; sleeps, using no processor, until there is one. kUnavailable, naming rank 0 and
  /// its host, when rank 0 is gone.
  virtual absl::StatusOr<std::vector<std::byte>> Receive() = 0;
  /// The next plan, if it is there already; nothing also where rank 0 is gone, which Receive says.
  virtual absl::StatusOr<std::optional<std::vector<std::byte>>> TryReceive() = 0;
  virtual absl::Status Acknowledge(uint64_t step, const Digest& digest,
                                   uint64_t reduce_nanoseconds) = 0;
  /// Tells rank 0 something that belongs to no step. Leaves soon if Receive is waiting, else with
  /// the next acknowledgement or Receive. Never waits.
  virtual void Report(const RecordReport& report) = 0;
  /// Tells rank 0 that a collective takes too long (ControlLeader::Stalled). Never waits.
  virtual void Stalled(const absl::Status& why) = 0;
  /// Tells rank 0 why this rank gives up. May wait half a second, in which rank 0 finds out whether
  /// another one is to blame.
  virtual void Fail(const absl::Status& why) = 0;
};

/// Delivers events one at a time, keeps losses until somebody listens, and lets nothing through
/// once closed. For implementations of ControlLeader. Thread safety: all methods.
class ControlEventGate {
 public:
  void Listen(ControlEvents events);
  void Acknowledged(const Acknowledgement& acknowledgement);
  void Reported(const RecordReport& report);
  void Lost(const absl::Status& why);
  /// No event is under way or will come once this returns.
  void Close();

 private:
  Mutex mutex_;  // held while an event is delivered
  ControlEvents events_ ABSL_GUARDED_BY(mutex_);
  bool listening_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<absl::Status> early_ ABSL_GUARDED_BY(mutex_);
};

/// "rank 2 on host n3 ...": what on_lost says.
absl::Status LostRank(int rank, const std::string& host, const std::string& how);
/// The same of a rank that said itself why it ends. It is named once.
absl::Status FailedRank(int rank, const std::string& host, const std::string& why);

}  // namespace tandem::parallel
