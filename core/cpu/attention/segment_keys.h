#pragma once

#include <cstdint>
#include <vector>

#include "core/base/isa.h"
#include "core/model/config.h"
#include "core/model/kv_view.h"

namespace tandem::core {

/// How attention reads keys that lie in the cache before rotation, for queries that see their own
/// segment alone: rotated by their position within it, as floats. Thread safety: Prepare by one
/// thread, the rest by any.
class SegmentKeys {
 public:
  /// segment: a multiple of kPageTokens. `rope` must outlive it.
  SegmentKeys(const Rope& rope, int segment) : rope_(rope), segment_(segment) {}

  int segment() const { return segment_; }
  /// Where a position's segment begins.
  int64_t Start(int64_t position) const { return position / segment_ * segment_; }
  /// Makes angles for the pages of positions below `end` of a segment.
  void Prepare(int64_t end);

  /// The keys of a page of the sequence, rotated, and its values. page_index: of the sequence.
  /// keys: [head_dim, 64]; values: [64, head_dim]
  void Read(Isa isa, const KvGeometry& geometry, const KvPage& page, int64_t page_index,
            float* keys, float* values) const;

 private:
  int64_t pairs() const { return static_cast<int64_t>(rope_.inverse_frequencies.size()); }

  const Rope& rope_;
  const int segment_;
  std::vector<std::vector<float>>
      angles_;  // [pages of a segment] of [cosines and sines, pairs, 64]
};

}  // namespace tandem::core
