#pragma once

#include <cstdint>
#include <vector>

#include "core/base/arena.h"
#include "core/base/status.h"
#include "core/model/kv_view.h"

namespace tandem::kv_store {

/// One rank's pages: for every layer group a region [blocks][layers of the group][kv_heads] of
/// pages, so that what a layer reads of one block stands together.
/// Thread safety: as KvView; the pool must outlive the view.
class PagePool {
 public:
  /// blocks: [layer groups]. kInvalidArgument for a geometry that contradicts itself,
  /// kResourceExhausted if the memory cannot be had.
  static absl::StatusOr<PagePool> Create(core::KvGeometry geometry,
                                         const std::vector<int64_t>& blocks);

  const core::KvView& view() const { return view_; }
  const std::vector<int64_t>& blocks() const { return blocks_; }
  int64_t bytes() const { return bytes_; }

 private:
  PagePool() = default;

  core::Arena memory_;
  core::KvView view_;
  std::vector<int64_t> blocks_;
  int64_t bytes_ = 0;
};

/// Copies the pages of one block into another's, in all layers of `group` and all KV heads of the
/// rank.
void CopyBlock(const core::KvView& view, size_t group, core::BlockId from, core::BlockId to);

}  // namespace tandem::kv_store
