#pragma once

#include <chrono>
#include <cstdint>

#include "kv_store/records/record.h"
#include "kv_store/records/tier.h"

namespace tandem::parallel {

/// Where a rank keeps the records of its KV heads, and how much may be under way.
struct RecordOptions {
  /// Null: nothing is saved or restored. Must outlive the rank's part. If one rank has none, none
  /// of them uses its own: a prefix helps only with all its heads.
  kv_store::Tier* tier = nullptr;
  /// Of model, numerics and cache; the same on all ranks (checked).
  kv_store::Fingerprint fingerprint{};
  int64_t save_bytes = int64_t{256} << 20;   // that wait for the tier; beyond, saves are dropped
  int64_t fetch_bytes = int64_t{512} << 20;  // of the fetches that are open, on the largest rank
  /// A fetch that takes longer is a miss; of more than 1,024 tokens, so much for each 1,024. Where
  /// it is known how long computing the tokens would take, nobody waits longer than that either.
  std::chrono::milliseconds fetch_deadline{1000};
  /// But this long in any case: shorter waits would end for a machine's noise.
  std::chrono::milliseconds least_fetch_deadline{20};
  /// So long a durable request's end waits for its records; then it says that they are not safe.
  std::chrono::milliseconds flush_deadline{2000};
};

}  // namespace tandem::parallel
