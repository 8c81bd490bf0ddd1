#pragma once

#include <cstddef>
#include <vector>

#include "core/base/status.h"
#include "frontend/jinja/values/sandbox.h"
#include "frontend/jinja/values/value.h"

namespace tandem::frontend::jinja {

/// The indices of `keys` in ascending order (descending if `reverse`), equal ones as they stand, as
/// Python's sorted() has it. Fails on keys that have no order. std::sort would not do: a comparison
/// may fail midway.
absl::StatusOr<std::vector<size_t>> SortedOrder(Sandbox& sandbox, const std::vector<Value>& keys,
                                                bool reverse);

}  // namespace tandem::frontend::jinja
