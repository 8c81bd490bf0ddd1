#pragma once

#include <cstdint>
#include <vector>

#include "core/model/kv_view.h"
#include "kv_store/records/record.h"
#include "kv_store/records/tier.h"
#include "parallel/plan/step_plan.h"

namespace tandem::parallel {

/// Asks rank 0's tier which of a request's tokens might be restored. Other ranks are not asked, so
/// a prompt that is new costs neither a plan nor their time.
struct RecordProbe {
  FetchId id = 0;  // of the fetch that may follow
  /// The blocks before this one need no records. Their hash, or the tenant's where there are none:
  int32_t first_block = 0;
  kv_store::BlockHash before{};
  std::vector<int32_t> tokens;  // from that block on, all that may be restored
};

/// What FindSaved found.
struct SavedTokens {
  /// What is not there of a longer beginning, of which something is.
  enum class Lack : uint8_t {
    kNothing,  // there is no longer one
    kState,    // the state of a place; all pages are there
    kRecords,
  };
  int32_t tokens = 0;
  Lack lack = Lack::kNothing;
  /// The farthest place that any of the records would come from.
  kv_store::TierKind from = kv_store::TierKind::kHost;
};

/// The largest number of tokens, counted from the beginning, behind which the tier has all records
/// of `kv_head` that the next position sees; 0 if it has none that help. The length of a tail is
/// not known, so all 63 lengths are asked for at once.
/// groups: [layer groups] Thread safety: as the tier's.
SavedTokens FindSaved(kv_store::Tier& tier, const kv_store::Fingerprint& fingerprint,
                      const std::vector<core::KvLayerGroup>& groups, int32_t kv_head,
                      const RecordProbe& probe);

}  // namespace tandem::parallel
