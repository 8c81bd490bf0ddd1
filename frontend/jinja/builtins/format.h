#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "frontend/jinja/builtins/context.h"
#include "frontend/jinja/values/sandbox.h"
#include "frontend/jinja/values/value.h"

/// Python's two ways to fill values into a string. Every part of the result keeps its origin.
namespace tandem::frontend::jinja {

/// format % values: printf style; `values` is a tuple, a dict for %(name)s, or one value.
absl::StatusOr<Value> FormatPercent(Sandbox& sandbox, const Value& format, const Value& values);

/// format.format(...): fields in braces, with conversions (!r) and format specifications.
absl::StatusOr<Value> FormatBraces(Context& context, const Value& format,
                                   const Arguments& arguments);

/// What stands after the colon of a field, or between "%" and the letter.
struct FormatSpec {
  std::string fill = " ";
  char align = '\0';  // < > = ^
  char sign = '-';
  bool alternate = false;
  bool zero = false;
  int64_t width = 0;
  char grouping = '\0';  // , or _
  std::optional<int> precision;
  size_t minimum_digits = 0;  // of an integer, zeros in front
  char type = '\0';
};

/// Pads a text to the width of the field; nothing is cut. `default_align` holds if the
/// specification has none.
void AppendPadded(Text& out, const Text& body, const FormatSpec& spec, char default_align);

/// A number under a specification whose type is one of b c d e f g n o s x % or none. Fails on
/// types that the value does not take.
absl::StatusOr<std::string> FormatNumber(const Value& value, const FormatSpec& spec);

}  // namespace tandem::frontend::jinja
