#include "parallel/control/agreement.h"

#include <utility>

namespace tandem::parallel {

Agreement::Agreement(std::vector<std::string> hosts) : hosts_(std::move(hosts)) {}

absl::Status Agreement::Own(uint64_t step, const Digest& digest) {
  const MutexLock lock(mutex_);
  Step& entry = steps_[step];
  entry.known = true;
  entry.own = digest;
  for (const auto& [rank, theirs] : entry.early) {
    TANDEM_RETURN_IF_ERROR(Compare(step, rank, digest, theirs));
  }
  Drop(step);
  return absl::OkStatus();
}

absl::Status Agreement::Follower(const Acknowledgement& acknowledgement) {
  const int rank = acknowledgement.rank;
  if (rank < 1 || static_cast<size_t>(rank) >= hosts_.size()) {
    return Internal("an acknowledgement came from rank {} of {}", rank, hosts_.size());
  }
  const MutexLock lock(mutex_);
  Step& entry = steps_[acknowledgement.step];
  ++entry.followers;
  if (!entry.known) {
    entry.early[rank] = acknowledgement.digest;
    return absl::OkStatus();
  }
  absl::Status agreed = Compare(acknowledgement.step, rank, entry.own, acknowledgement.digest);
  Drop(acknowledgement.step);
  return agreed;
}

absl::Status Agreement::Compare(uint64_t step, int rank, const Digest& own,
                                const Digest& theirs) const {
  if (own == theirs) return absl::OkStatus();
  return Internal(
      "rank {} on host {} disagrees with rank 0 after step {}: digest {}, expected {}; its memory "
      "or "
      "build differs",
      rank, hosts_[static_cast<size_t>(rank)], step, DigestText(theirs), DigestText(own));
}

void Agreement::Drop(uint64_t step) {
  const auto entry = steps_.find(step);
  if (entry->second.known && entry->second.followers + 1 >= hosts_.size()) steps_.erase(entry);
}

size_t Agreement::open_steps() const {
  const MutexLock lock(mutex_);
  return steps_.size();
}

}  // namespace tandem::parallel
