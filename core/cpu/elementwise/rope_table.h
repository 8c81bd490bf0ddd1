#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/model/config.h"

namespace tandem::core {

/// Cosines and sines of one rotary embedding, computed when a position is first seen and kept, as
/// far as there are not too many of them. Thread safety: Begin and Prepare by one thread; reads of
/// prepared positions from any.
class RopeTable {
 public:
  explicit RopeTable(const Rope& rope) : rope_(rope) {}

  /// Positions that are kept from step to step; more where a step itself has as many.
  static constexpr int64_t kMostKept = 1 << 13;

  /// Begins a step: positions of steps before are no longer readable.
  void Begin();
  /// Makes positions [begin, end) readable, until the next Begin.
  void Prepare(int64_t begin, int64_t end);

  std::span<const float> cosines(int64_t position) const { return Row(position, 0); }
  std::span<const float> sines(int64_t position) const { return Row(position, 1); }
  RopeLayout layout() const { return rope_.layout; }

 private:
  static constexpr int64_t kBlock = 64;  // positions made at once

  size_t pairs() const { return rope_.inverse_frequencies.size(); }
  std::span<const float> Row(int64_t position, size_t which) const {
    const float* block = blocks_[static_cast<size_t>(position / kBlock)].get();
    return {block + (static_cast<size_t>(position % kBlock) * 2 + which) * pairs(), pairs()};
  }

  const Rope& rope_;
  int64_t kept_ = 0;      // blocks that are made
  int64_t prepared_ = 0;  // since Begin
  std::vector<std::unique_ptr<float[]>>
      blocks_;  // [positions / 64] of [64, cosines and sines, pairs]
};

}  // namespace tandem::core
