#pragma once

#include <optional>
#include <string>

#include "core/base/status.h"
#include "frontend/jinja/values/sandbox.h"
#include "frontend/jinja/values/value.h"

/// Values as text, byte for byte as Python 3 writes them.
namespace tandem::frontend::jinja {

/// repr() of a float: the shortest digits that read back the same, an exponent below 1e-4 and from
/// 1e16 on.
std::string FloatRepr(double value);
/// Steps of fuel that it takes.
inline constexpr int64_t kFloatReprSteps = 4;
/// Those of writing all digits of a float with so many decimal places, or of rounding it to them.
int64_t FloatSteps(double value, int64_t precision);

/// repr() of a string: quotes, escapes, characters that cannot be printed as \x, \u or \U.
std::string StringRepr(const std::string& bytes, bool markup = false);

/// str(value). A string stays as it is; other values are trusted if nothing in them is a client's.
absl::StatusOr<Text> ToText(Sandbox& sandbox, const Value& value);

/// repr(value).
absl::StatusOr<Text> Repr(Sandbox& sandbox, const Value& value);

/// The text of `value`, HTML-escaped unless it is marked safe already: what markupsafe.escape
/// gives.
absl::StatusOr<Text> EscapedText(Sandbox& sandbox, const Value& value);

/// What json.dumps takes.
struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::optional<std::string> indent;  // one level of it; one line without spaces at ends if not set
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};

/// json.dumps(value). Fails on values that JSON has no form for. The result is trusted only if
/// nothing in it comes from a client.
absl::StatusOr<Text> ToJson(Sandbox& sandbox, const Value& value, const JsonStyle& style);

}  // namespace tandem::frontend::jinja
