#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/base/status.h"
#include "kv_store/records/tier.h"
#include "parallel/plan/record_counts.h"

namespace tandem::parallel {

/// What a rank tells rank 0 of its records, whenever it is ready: no step waits for it.
struct RecordReport {
  enum class Kind : uint8_t {
    kFlushed,  // all saves up to a plan's flush mark outlive the rank, or some do not
    kFetched,  // the fetch has got what there was
    kCounts,   // nothing but the counts, which tell of trouble
    kLoaded,   // the pages that a plan loads of a fetch are filled
  };
  Kind kind = Kind::kCounts;
  int32_t rank = 0;
  uint64_t id = 0;   // of kFlushed: the step of the plan; of kFetched and kLoaded: the fetch
  bool safe = true;  // of kFlushed: all of them do
  /// Of kFetched: one for each block from the front that is whole with all the heads and layer
  /// groups asked for: the farthest place that a record of it came from.
  std::vector<kv_store::TierKind> from;
  RecordCounts counts;
  bool operator==(const RecordReport&) const = default;
};

/// kind u8, id u64, safe u8, from (count u32, u8 each), counts (5 u64); little endian. The rank is
/// known by who sends it.
std::vector<std::byte> EncodeRecordReport(const RecordReport& report);

/// kInvalidArgument, saying what is wrong, for everything that EncodeRecordReport did not write.
absl::StatusOr<RecordReport> DecodeRecordReport(std::span<const std::byte> bytes);

}  // namespace tandem::parallel
