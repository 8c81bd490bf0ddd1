#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "core/base/status.h"

namespace tandem::frontend {

/// The JSON object that the body of a request is. kInvalidArgument, naming what is wrong and where,
/// for a body that is none, nests more than `depth` levels deep, has a field twice in one
/// object, or more than a million values. Never throws; work and memory are bounded by the body's
/// size.
absl::StatusOr<nlohmann::json> ParseBody(std::string_view body, int depth);

/// Valid UTF-8 JSON, whatever the strings in it are.
std::string DumpJson(const nlohmann::ordered_json& json);

}  // namespace tandem::frontend
