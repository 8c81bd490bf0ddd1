#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "core/base/mutex.h"
#include "core/base/status.h"
#include "kv_store/pages/page_pool.h"

namespace tandem::parallel {

/// A few blocks of host memory in which pages stand on their way between the device and records.
/// Thread safety: all methods.
class PageStaging {
 public:
  /// For blocks of `pool`, which must outlive it, of about so many bytes together; at least two of
  /// each layer group. kResourceExhausted if the memory cannot be had.
  static absl::StatusOr<std::unique_ptr<PageStaging>> Create(const kv_store::PagePool& pool,
                                                             int64_t bytes);

  const kv_store::PagePool& pages() const { return pages_; }
  /// How many times Take would not wait.
  size_t free();
  /// A block of every layer group, under one number; waits until one is free.
  core::BlockId Take();
  /// Nothing if none is free.
  std::optional<core::BlockId> TryTake();
  void Return(core::BlockId blocks);

 private:
  explicit PageStaging(kv_store::PagePool pages);

  const kv_store::PagePool pages_;
  Mutex mutex_;
  CondVar changed_;
  std::vector<core::BlockId> free_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tandem::parallel
