#pragma once

#include <cstdint>
#include <vector>

#include "kv_store/records/tier.h"

namespace tandem::testing {

/// The hash that tests call block n; 0 is where a chain begins.
kv_store::BlockHash BlockNamed(int n);

/// A record of block `n`, which stands on `before`, of the KV head `head`. Its key follows from
/// block and head, its bytes from the key, so that nobody needs to remember them.
kv_store::TierRecord RecordOf(int n, int before, int head, int64_t bytes, uint64_t tenant = 0);

/// The keys of these records, in their order.
std::vector<kv_store::RecordKey> KeysOf(const std::vector<kv_store::TierRecord>& records);

}  // namespace tandem::testing
