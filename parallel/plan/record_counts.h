#pragma once

#include <cstdint>

namespace tandem::parallel {

/// What has become of records, of one rank since it began or of all ranks.
struct RecordCounts {
  uint64_t put = 0;      // given to the tiers
  uint64_t dropped = 0;  // not even that: too many were waiting
  uint64_t refused = 0;  // in batches that a tier did not take whole
  uint64_t fetched = 0;  // got from the tiers, whole
  uint64_t damaged = 0;  // got from the tiers, but not what they should be

  RecordCounts& operator+=(const RecordCounts& more) {
    put += more.put;
    dropped += more.dropped;
    refused += more.refused;
    fetched += more.fetched;
    damaged += more.damaged;
    return *this;
  }
  bool operator==(const RecordCounts&) const = default;
};

/// As in core/base/wire.h.
template <typename Archive>
void Fields(Archive& archive, RecordCounts& counts) {
  archive(counts.put, counts.dropped, counts.refused, counts.fetched, counts.damaged);
}

}  // namespace tandem::parallel
