#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>

#include "core/base/status.h"
#include "frontend/protocol/request.h"

/// The fields of requests over HTTP. Those that are not in this table are treated as the ZeroMQ
/// protocol treats them (frontend/protocol/known_fields.h). docs/http.md lists them.
namespace tandem::frontend {

/// A kind of request; several are joined by `|`.
enum ApiKind : uint8_t {
  kChatApi = 1,         // /v1/chat/completions
  kCompletionsApi = 2,  // /v1/completions
  kMessagesApi = 4,     // /v1/messages
  kResponsesApi = 8,    // /v1/responses
};
inline constexpr int kAllApis = kChatApi | kCompletionsApi | kMessagesApi | kResponsesApi;
inline constexpr int kChatApis = kChatApi | kMessagesApi | kResponsesApi;

struct HttpField {
  std::string_view name;
  int apis;
  /// "read", "any" or the values at which it asks for nothing, as in KnownField.
  std::string_view neutral;
  std::string_view means;  // for docs/http.md
};
std::span<const HttpField> HttpFields();

/// Looks at all fields of a request. kUnimplemented for the first one that asks for something that
/// is not built, kInvalidArgument for one that belongs to another kind of request, naming it.
absl::Status CheckHttpFields(const nlohmann::json& object, ApiKind api, UnknownFields& unknown);

/// Takes the fields of this table away that are not read: once they are checked, they ask for
/// nothing.
void DropNeutralFields(ApiKind api, nlohmann::json& object);

/// The rows of the table of fields in docs/http.md, each ended by a newline.
std::string HttpFieldRows();

}  // namespace tandem::frontend
