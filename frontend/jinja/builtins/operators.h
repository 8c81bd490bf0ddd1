#pragma once

#include <optional>
#include <string_view>

#include "core/base/status.h"
#include "frontend/jinja/values/sandbox.h"
#include "frontend/jinja/values/value.h"

/// Python's operators on values. All fail with InvalidArgument on types that they do not take.
namespace tandem::frontend::jinja {

/// left symbol right, for + - * / // % **. Integers that leave 64 bits are an error.
absl::StatusOr<Value> Binary(Sandbox& sandbox, std::string_view symbol, const Value& left,
                             const Value& right);

/// -operand or +operand.
absl::StatusOr<Value> Negate(const Value& operand);
absl::StatusOr<Value> Plus(const Value& operand);

/// object[start:stop:step]; each bound an int, None, or left out.
absl::StatusOr<Value> Slice(Sandbox& sandbox, const Value& object, const Value& start,
                            const Value& stop, const Value& step);

/// The member at a (possibly negative) index of a string, list, tuple or range; nothing if out of
/// range.
absl::StatusOr<std::optional<Value>> Index(Sandbox& sandbox, const Value& sequence, int64_t index);

}  // namespace tandem::frontend::jinja
