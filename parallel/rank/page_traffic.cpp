#include "parallel/rank/page_traffic.h"

#include <utility>

namespace tandem::parallel {

void PageTraffic::Changed() {
  idle_ = leaving_.empty() && filling_.empty() && failed_.ok();
  changed_.NotifyAll();
}

void PageTraffic::Leaves(PoolBlock block, const std::shared_ptr<core::DeviceCopy>& copy) {
  if (copy == nullptr) return;
  const MutexLock lock(mutex_);
  leaving_.emplace(block, copy);
  Changed();
}

void PageTraffic::Left(PoolBlock block, const std::shared_ptr<core::DeviceCopy>& copy) {
  const MutexLock lock(mutex_);
  const auto [begin, end] = leaving_.equal_range(block);
  for (auto it = begin; it != end; ++it) {
    if (it->second != copy) continue;
    leaving_.erase(it);
    break;
  }
  Changed();
}

void PageTraffic::Fills(PoolBlock block) {
  const MutexLock lock(mutex_);
  ++filling_[block];
  Changed();
}

void PageTraffic::Filled(PoolBlock block) {
  const MutexLock lock(mutex_);
  if (const auto found = filling_.find(block); --found->second == 0) filling_.erase(found);
  Changed();
}

void PageTraffic::Fail(absl::Status why) {
  const MutexLock lock(mutex_);
  if (failed_.ok()) failed_ = std::move(why);
  Changed();
}

bool PageTraffic::Fills(std::span<const PoolBlock> blocks) {
  const MutexLock lock(mutex_);
  for (const PoolBlock& block : blocks) {
    if (filling_.contains(block)) return true;
  }
  return false;
}

absl::Status PageTraffic::AwaitFilled(std::span<const PoolBlock> blocks) {
  const MutexLock lock(mutex_);
  for (const PoolBlock& block : blocks) {
    while (failed_.ok() && filling_.contains(block)) changed_.Wait(mutex_);
  }
  return failed_;
}

absl::Status PageTraffic::FollowLeaving(std::span<const PoolBlock> blocks) {
  const MutexLock lock(mutex_);
  for (const PoolBlock& block : blocks) {
    const auto [begin, end] = leaving_.equal_range(block);
    for (auto it = begin; it != end; ++it) TANDEM_RETURN_IF_ERROR(it->second->ComeFirst());
  }
  return failed_;
}

}  // namespace tandem::parallel
