#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "core/base/status.h"
#include "frontend/jinja/values/value.h"

/// Python's int(), float() and round().
namespace tandem::frontend::jinja {

/// float(text): white space around, underscores between digits, inf and nan; nothing if it is no
/// number.
std::optional<double> ParseFloat(std::string_view text);

/// int(text, base) for base 0 or 2 to 36; nothing if it is no number. Fails if it does not fit 64
/// bits.
absl::StatusOr<std::optional<int64_t>> ParseInteger(std::string_view text, int64_t base);

/// round(value, precision): halves to even, on the exact value.
double RoundFloat(double value, int64_t precision);
absl::StatusOr<int64_t> RoundInteger(int64_t value, int64_t precision);

}  // namespace tandem::frontend::jinja
