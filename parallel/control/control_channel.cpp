#include "parallel/control/control_channel.h"

#include <utility>

namespace tandem::parallel {

void ControlEventGate::Listen(ControlEvents events) {
  const MutexLock lock(mutex_);
  events_ = std::move(events);
  listening_ = !closed_;
  for (const absl::Status& why : std::exchange(early_, {})) {
    if (listening_) events_.on_lost(why);
  }
}

void ControlEventGate::Acknowledged(const Acknowledgement& acknowledgement) {
  const MutexLock lock(mutex_);
  if (listening_) events_.on_acknowledgement(acknowledgement);
}

void ControlEventGate::Reported(const RecordReport& report) {
  const MutexLock lock(mutex_);
  if (listening_ && events_.on_report) events_.on_report(report);
}

void ControlEventGate::Lost(const absl::Status& why) {
  const MutexLock lock(mutex_);
  if (listening_) {
    events_.on_lost(why);
  } else if (!closed_) {
    early_.push_back(why);
  }
}

void ControlEventGate::Close() {
  const MutexLock lock(mutex_);
  listening_ = false;
  closed_ = true;
  events_ = {};
}

absl::Status LostRank(int rank, const std::string& host, const std::string& how) {
  return Unavailable("rank {} on host {} {}", rank, host, how);
}

absl::Status FailedRank(int rank, const std::string& host, const std::string& why) {
  // Some say themselves who they are.
  if (why.starts_with(fmt::format("rank {} on host ", rank))) {
    return Unavailable("{}", why);
  }
  return LostRank(rank, host, "failed: " + why);
}

}  // namespace tandem::parallel
