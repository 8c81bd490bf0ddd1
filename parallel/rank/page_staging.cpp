#include "parallel/rank/page_staging.h"

#include <algorithm>
#include <utility>

namespace tandem::parallel {
namespace {

// More are never on their way together.
constexpr int64_t kMostBlocks = 256;

}  // namespace

PageStaging::PageStaging(kv_store::PagePool pages) : pages_(std::move(pages)) {
  for (core::BlockId b = 0; b < pages_.blocks().front(); ++b) free_.push_back(b);
}

absl::StatusOr<std::unique_ptr<PageStaging>> PageStaging::Create(const kv_store::PagePool& pool,
                                                                 int64_t bytes) {
  const core::KvGeometry& geometry = pool.view().geometry();
  int64_t each = 0;
  for (size_t g = 0; g < geometry.groups.size(); ++g) each += geometry.BlockBytes(g);
  const int64_t blocks = std::clamp<int64_t>(bytes / std::max<int64_t>(each, 1), 2, kMostBlocks);
  TANDEM_ASSIGN_OR_RETURN(
      kv_store::PagePool pages,
      kv_store::PagePool::Create(pool.memory().host(), geometry,
                                 std::vector<int64_t>(geometry.groups.size(), blocks)));
  return std::unique_ptr<PageStaging>(new PageStaging(std::move(pages)));
}

size_t PageStaging::free() {
  const MutexLock lock(mutex_);
  return free_.size();
}

core::BlockId PageStaging::Take() {
  const MutexLock lock(mutex_);
  while (free_.empty()) changed_.Wait(mutex_);
  const core::BlockId blocks = free_.back();
  free_.pop_back();
  return blocks;
}

std::optional<core::BlockId> PageStaging::TryTake() {
  const MutexLock lock(mutex_);
  if (free_.empty()) return std::nullopt;
  const core::BlockId blocks = free_.back();
  free_.pop_back();
  return blocks;
}

void PageStaging::Return(core::BlockId blocks) {
  const MutexLock lock(mutex_);
  free_.push_back(blocks);
  changed_.NotifyAll();
}

}  // namespace tandem::parallel
