#pragma once

#include <vector>

#include "core/base/status.h"
#include "frontend/jinja/values/sandbox.h"
#include "frontend/jinja/values/value.h"

namespace tandem::frontend::jinja {

/// iter(value): a function that gives one member after another. Fails on values that cannot be
/// iterated.
absl::StatusOr<NextValue> Iterate(Sandbox& sandbox, const Value& value);

/// list(value).
absl::StatusOr<std::vector<Value>> Items(Sandbox& sandbox, const Value& value);

}  // namespace tandem::frontend::jinja
