#pragma once

#include <atomic>
#include <compare>
#include <cstddef>
#include <map>
#include <memory>
#include <span>

#include "core/base/mutex.h"
#include "core/base/status.h"
#include "core/model/device_memory.h"
#include "core/model/kv_view.h"

namespace tandem::parallel {

/// A block of a rank's pool.
struct PoolBlock {
  size_t group = 0;  // layer group
  core::BlockId block = core::kNoBlock;
  auto operator<=>(const PoolBlock&) const = default;
};

/// The blocks of a rank's pool that are copied to the host, or filled from there, while steps go
/// on; and what makes a step that needs one of them come after that. Thread safety: all methods.
class PageTraffic {
 public:
  /// A block is being copied to the host until Left. copy: null: it is done.
  void Leaves(PoolBlock block, const std::shared_ptr<core::DeviceCopy>& copy);
  void Left(PoolBlock block, const std::shared_ptr<core::DeviceCopy>& copy);
  /// A block is being filled until Filled.
  void Fills(PoolBlock block);
  void Filled(PoolBlock block);
  /// Copies have failed: whoever waits gets this, from now on.
  void Fail(absl::Status why);

  /// Whether no block is on its way, and none has failed.
  bool idle() const { return idle_; }
  /// Whether AwaitFilled would wait.
  bool Fills(std::span<const PoolBlock> blocks);
  /// Waits until none of these blocks is being filled: before they are read or written.
  absl::Status AwaitFilled(std::span<const PoolBlock> blocks);
  /// What is enqueued on the device from now on comes after the copies of these blocks to the host.
  absl::Status FollowLeaving(std::span<const PoolBlock> blocks);

 private:
  void Changed() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::atomic<bool> idle_ = true;
  Mutex mutex_;
  CondVar changed_;
  std::multimap<PoolBlock, std::shared_ptr<core::DeviceCopy>> leaving_ ABSL_GUARDED_BY(mutex_);
  std::map<PoolBlock, int> filling_ ABSL_GUARDED_BY(mutex_);
  absl::Status failed_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tandem::parallel
