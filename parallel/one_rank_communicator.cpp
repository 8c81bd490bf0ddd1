#include "parallel/one_rank_communicator.h"

namespace tandem::parallel {

absl::Status OneRankCommunicator::AllReduceSum(std::span<int64_t>, const core::StepPhase&) {
  return error_;
}

absl::Status OneRankCommunicator::AllGather(std::span<const std::byte> mine,
                                            std::span<std::byte> all,
                                            const core::StepPhase& phase) {
  if (error_.ok() && all.size() != mine.size()) {
    error_ =
        Internal("all-gather of {} bytes on 1 rank got room for {} bytes", mine.size(), all.size());
  }
  TANDEM_RETURN_IF_ERROR(error_);
  return core::OneRank().AllGather(mine, all, phase);
}

void OneRankCommunicator::Abort(const absl::Status& why) {
  if (error_.ok() && !why.ok()) error_ = why;
}

}  // namespace tandem::parallel
