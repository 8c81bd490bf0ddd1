#pragma once

#include <cstddef>
#include <vector>

#include "kv_store/records/tier.h"

namespace tandem::kv_store {

/// The first `most` blocks of several tiers' lists together: a block that several have is one, used
/// when it was last used in any of them; so is a record, with all its copies. Each list is ordered
/// by hash and has the tier's next blocks, `most` of them or all that are left.
/// Thread safety: none needed, a function of its arguments.
std::vector<ListedBlock> MergeLists(std::vector<std::vector<ListedBlock>> lists, size_t most);

}  // namespace tandem::kv_store
