#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/base/mutex.h"
#include "core/base/status.h"
#include "parallel/control/control_channel.h"

namespace tandem::parallel {

/// Compares the followers' digests with rank 0's, step by step, whoever comes first.
/// Thread safety: all methods.
class Agreement {
 public:
  /// hosts: [ranks]
  explicit Agreement(std::vector<std::string> hosts);

  /// Rank 0's own digest. kInternal, naming a rank that disagrees.
  absl::Status Own(uint64_t step, const Digest& digest);
  absl::Status Follower(const Acknowledgement& acknowledgement);

  /// Steps that somebody has not acknowledged yet.
  size_t open_steps() const;

 private:
  struct Step {
    bool known = false;  // rank 0 has done it
    Digest own{};
    std::map<int, Digest> early;  // of followers that were ahead of rank 0
    size_t followers = 0;         // that have acknowledged
  };
  absl::Status Compare(uint64_t step, int rank, const Digest& own, const Digest& theirs) const;
  void Drop(uint64_t step) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::vector<std::string> hosts_;
  mutable Mutex mutex_;
  std::map<uint64_t, Step> steps_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tandem::parallel
