#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "core/base/status.h"

namespace tandem::frontend {

/// The JSON object that the body of a request is. kInvalidArgument, naming what is wrong and where,
/// for a body that is none, nests more than `depth` levels deep, has a field twice in one
/// object, or more than a million values. As
/// ParseDocument.
absl::StatusOr<nlohmann::json> ParseBody(std::string_view body, int depth);

}  // namespace tandem::frontend
