#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/base/mutex.h"
#include "core/system/host_name.h"
#include "parallel/communicators/communicator.h"

namespace tandem::parallel {

/// The world of one rank: nobody to wait for, and no MPI started.
class OneRankCommunicator final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  const std::vector<std::string>& hosts() const override { return hosts_; }
  absl::Status AllReduceSum(std::span<int64_t> values, const core::StepPhase& phase) override;
  absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all,
                         const core::StepPhase& phase) override;
  absl::Status Barrier() override { return Error(); }
  absl::Status Broadcast(std::span<std::byte>) override { return Error(); }
  void Abort(const absl::Status& why) override;

 private:
  absl::Status Error() const;
  void Fail(const absl::Status& why);

  std::vector<std::string> hosts_ = {core::HostName()};
  mutable Mutex mutex_;
  absl::Status error_ ABSL_GUARDED_BY(mutex_);  // the first one sticks
};

}  // namespace tandem::parallel
