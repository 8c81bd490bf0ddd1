#include "kv_store/pages/block_allocator.h"

#include "core/base/check.h"

namespace tandem::kv_store {

BlockAllocator::BlockAllocator(int64_t blocks) : owners_(static_cast<size_t>(blocks), 0) {
  free_.reserve(owners_.size());
  for (int64_t block = blocks - 1; block >= 0; --block) {
    free_.push_back(static_cast<core::BlockId>(block));
  }
}

std::optional<core::BlockId> BlockAllocator::Allocate() {
  if (free_.empty()) return std::nullopt;
  const core::BlockId block = free_.back();
  free_.pop_back();
  owners_[static_cast<size_t>(block)] = 1;
  return block;
}

void BlockAllocator::Share(core::BlockId block) {
  TANDEM_CHECK(block >= 0 && block < blocks(), "a block outside the pool was shared");
  TANDEM_CHECK(owners(block) > 0, "a free block was shared");
  ++owners_[static_cast<size_t>(block)];
}

bool BlockAllocator::Release(core::BlockId block) {
  TANDEM_CHECK(block >= 0 && block < blocks(), "a block outside the pool was released");
  TANDEM_CHECK(owners(block) > 0, "a free block was released again");
  if (--owners_[static_cast<size_t>(block)] > 0) return false;
  free_.push_back(block);
  return true;
}

}  // namespace tandem::kv_store
