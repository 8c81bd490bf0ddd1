#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/base/status.h"
#include "core/model/device_memory.h"
#include "core/model/kv_view.h"

namespace tandem::kv_store {

/// One rank's pages: for every layer group a region [blocks][layers of the group][kv_heads] of
/// pages, so that what a layer reads of one block stands together.
/// Thread safety: as KvView; the pool must outlive the view.
class PagePool {
 public:
  /// Pages in the memory of a device, which must outlive the pool. blocks: [layer groups].
  /// kInvalidArgument for a geometry that contradicts itself, kResourceExhausted if the memory
  /// cannot be had.
  static absl::StatusOr<PagePool> Create(core::DeviceMemory& memory, core::KvGeometry geometry,
                                         const std::vector<int64_t>& blocks);

  const core::KvView& view() const { return view_; }
  /// Where the pages are, and how bytes come into and out of them.
  core::DeviceMemory& memory() const { return *memory_; }
  const std::vector<int64_t>& blocks() const { return blocks_; }
  int64_t bytes() const { return bytes_; }

  /// All pages of a block: BlockBytes(group) together.
  std::byte* Block(size_t group, core::BlockId block) const {
    return regions_[group].get() + block * view_.geometry().BlockBytes(group);
  }
  /// Begins a copy of a block's pages to or from a block of `on_host`, a pool of the same geometry
  /// in memory().host(); as DeviceMemory::BeginCopy.
  absl::StatusOr<std::shared_ptr<core::DeviceCopy>> BeginCopy(core::CopyDirection direction,
                                                              size_t group, core::BlockId block,
                                                              const PagePool& on_host,
                                                              core::BlockId host_block) const;

  /// Copies the pages of one block into another's, in all layers of `group` and all KV heads of the
  /// rank.
  absl::Status CopyBlock(size_t group, core::BlockId from, core::BlockId to) const;

 private:
  explicit PagePool(core::DeviceMemory& memory) : memory_(&memory) {}

  core::DeviceMemory* memory_;
  std::vector<std::shared_ptr<std::byte>> regions_;  // [layer groups]
  core::KvView view_;
  std::vector<int64_t> blocks_;
  int64_t bytes_ = 0;
};

}  // namespace tandem::kv_store
