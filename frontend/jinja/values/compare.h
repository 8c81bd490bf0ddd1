#pragma once

#include <string_view>

#include "core/base/status.h"
#include "frontend/jinja/values/sandbox.h"
#include "frontend/jinja/values/value.h"

namespace tandem::frontend::jinja {

/// left == right, as Python compares: numbers by value, containers by their members. Fails if the
/// fuel is spent.
absl::StatusOr<bool> Equal(Sandbox& sandbox, const Value& left, const Value& right);

/// Orders two values as `<` does. Fails on types that have no order: `operation` names the
/// operator.
absl::StatusOr<Order> Compare(Sandbox& sandbox, const Value& left, const Value& right,
                              std::string_view operation = "<");

/// `member in container`.
absl::StatusOr<bool> Contains(Sandbox& sandbox, const Value& container, const Value& member);

}  // namespace tandem::frontend::jinja
