#include "core/cpu/elementwise/rope_table.h"

#include <algorithm>
#include <utility>

#include "core/cpu/elementwise/elementwise.h"

namespace tandem::core {

void RopeTable::Begin() {
  const int64_t most = std::max(kMostKept / kBlock, 2 * std::exchange(prepared_, 0));
  if (kept_ <= most) return;
  blocks_.clear();
  kept_ = 0;
}

void RopeTable::Prepare(int64_t begin, int64_t end) {
  const auto first = static_cast<size_t>(begin / kBlock);
  const auto last = static_cast<size_t>((end + kBlock - 1) / kBlock);
  prepared_ += static_cast<int64_t>(last - first);
  if (blocks_.size() < last) blocks_.resize(last);
  for (size_t b = first; b < last; ++b) {
    if (blocks_[b]) continue;
    ++kept_;
    blocks_[b] = std::make_unique<float[]>(static_cast<size_t>(kBlock) * 2 * pairs());
    for (int64_t i = 0; i < kBlock; ++i) {
      float* row = blocks_[b].get() + static_cast<size_t>(i) * 2 * pairs();
      RopeAngles(rope_, static_cast<int64_t>(b) * kBlock + i, {row, pairs()},
                 {row + pairs(), pairs()});
    }
  }
}

}  // namespace tandem::core
