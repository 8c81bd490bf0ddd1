#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <thread>
#include <vector>

#include "core/base/mutex.h"
#include "core/model/host_memory.h"

namespace tandem::testing {

/// The memory of a device that makes copies of BeginCopy as late as it may: when somebody has
/// waited for one for a while, or wants it to come first. So a step that needs their pages and does
/// not care for them is found out by wrong numbers. Copies come in the order in which they began.
class LazyMemory final : public core::HostMemory {
 public:
  bool copies_beside() const override { return true; }
  absl::StatusOr<std::shared_ptr<core::DeviceCopy>> BeginCopy(
      core::CopyDirection direction, std::span<const core::CopyRun> runs) override {
    auto copy = std::make_shared<Copy>(*this);
    copy->direction = direction;
    copy->runs.assign(runs.begin(), runs.end());
    const MutexLock lock(mutex_);
    waiting_.push_back(copy);
    return copy;
  }

 private:
  struct Copy final : core::DeviceCopy {
    explicit Copy(LazyMemory& of) : memory(of) {}
    absl::Status Wait() override {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      return memory.MakeUntil(*this);
    }
    absl::Status ComeFirst() override { return memory.MakeUntil(*this); }

    LazyMemory& memory;
    core::CopyDirection direction = core::CopyDirection::kToHost;
    std::vector<core::CopyRun> runs;
    bool made = false;
  };

  absl::Status MakeUntil(const Copy& last) {
    const MutexLock lock(mutex_);
    while (!last.made) {
      Copy& next = *waiting_.front();
      const bool to_host = next.direction == core::CopyDirection::kToHost;
      TANDEM_RETURN_IF_ERROR(to_host ? CopyToHost(next.runs) : CopyFromHost(next.runs));
      next.made = true;
      waiting_.pop_front();
    }
    return absl::OkStatus();
  }

  Mutex mutex_;
  std::deque<std::shared_ptr<Copy>> waiting_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tandem::testing
