#include "parallel/communicators/one_rank_communicator.h"

namespace tandem::parallel {

absl::Status OneRankCommunicator::AllReduceSum(std::span<int64_t>, const core::StepPhase&) {
  return Error();
}

absl::Status OneRankCommunicator::AllGather(std::span<const std::byte> mine,
                                            std::span<std::byte> all,
                                            const core::StepPhase& phase) {
  if (all.size() != mine.size()) {
    Fail(Internal("all-gather of {} bytes on 1 rank got room for {} bytes", mine.size(),
                  all.size()));
  }
  TANDEM_RETURN_IF_ERROR(Error());
  return core::OneRank().AllGather(mine, all, phase);
}

void OneRankCommunicator::Abort(const absl::Status& why) { Fail(why); }

absl::Status OneRankCommunicator::Error() const {
  const MutexLock lock(mutex_);
  return error_;
}

void OneRankCommunicator::Fail(const absl::Status& why) {
  const MutexLock lock(mutex_);
  if (error_.ok()) error_ = why;
}

}  // namespace tandem::parallel
