#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "core/base/status.h"

/// JSON that comes from strangers, and goes to them.
namespace tandem::frontend {

struct JsonLimits {
  int depth = 32;  // levels of nesting
  /// Counted by their commas, before anything is built: each takes tens of bytes.
  int64_t values = std::numeric_limits<int64_t>::max();
};

/// The document that a text is. kInvalidArgument, naming what is wrong and where, for a text that
/// is none or beyond the limits, or has a field twice in one object. `what`: the text, for
/// messages. Throws nothing but std::bad_alloc; work and memory are bounded by the text's size.
absl::StatusOr<nlohmann::json> ParseDocument(std::string_view text, std::string_view what,
                                             const JsonLimits& limits);

/// Valid UTF-8 JSON, whatever the strings in it are.
std::string DumpJson(const nlohmann::ordered_json& json);

}  // namespace tandem::frontend
