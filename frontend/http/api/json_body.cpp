#include "frontend/http/api/json_body.h"

#include "frontend/protocol/json_document.h"
#include "frontend/protocol/protocol_fields.h"

namespace tandem::frontend {

absl::StatusOr<nlohmann::json> ParseBody(std::string_view body, int depth) {
  constexpr int64_t kMostValues = int64_t{1} << 20;
  if (body.empty()) return InvalidArgument("the body is empty: send one JSON object");
  TANDEM_ASSIGN_OR_RETURN(nlohmann::json document,
                          ParseDocument(body, "the body", {.depth = depth, .values = kMostValues}));
  if (!document.is_object()) {
    return InvalidArgument("the body is not a JSON object, but {}", Shown(document));
  }
  return document;
}

}  // namespace tandem::frontend
