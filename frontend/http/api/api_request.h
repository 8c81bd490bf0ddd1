#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "frontend/http/api/http_fields.h"
#include "frontend/protocol/request.h"

/// Requests for answers over HTTP become the same typed requests as those of the ZeroMQ protocol.
namespace tandem::frontend {

struct ApiRequest {
  std::string model;                       // as it was asked for; empty: any
  std::vector<GenerateRequest> generates;  // one a prompt; several of /v1/completions only
  UnknownFields unknown_fields = {};
  bool stream = false;
  bool include_usage = false;  // of a stream: chat and completions
  // Of /v1/responses:
  bool store = false;
  std::optional<std::string> previous_response = {};
  bool has_instructions = false;     // the first message is these
  nlohmann::ordered_json told = {};  // fields that come back with the response
};

inline constexpr int kMostAnswers = 64;  // of one request: prompts times answers of each

/// /v1/chat/completions. `body`: an object, as ParseBody gives it. kUnimplemented,
/// kInvalidArgument, naming the field. Never throws for such a body.
absl::StatusOr<ApiRequest> ReadChatRequest(const nlohmann::json& body,
                                           const ProtocolLimits& limits);
/// /v1/completions.
absl::StatusOr<ApiRequest> ReadCompletionRequest(const nlohmann::json& body,
                                                 const ProtocolLimits& limits);
/// /v1/messages. `count_only`: /v1/messages/count_tokens, which needs no max_tokens.
absl::StatusOr<ApiRequest> ReadMessagesRequest(const nlohmann::json& body,
                                               const ProtocolLimits& limits,
                                               bool count_only = false);
/// /v1/responses.
absl::StatusOr<ApiRequest> ReadResponsesRequest(const nlohmann::json& body,
                                                const ProtocolLimits& limits);

/// Messages as /v1/chat/completions has them; also of /tokenize and /apply-template.
absl::StatusOr<std::vector<ChatMessage>> ReadChatMessages(const nlohmann::json& object,
                                                          UnknownFields& unknown);

// What the readers above share.

/// The text of a message's content: a text, null, or a list of parts of the types in `types`
/// ("text" for example), whose texts are joined by newlines. `where`: for messages.
absl::StatusOr<std::string> ReadContent(const nlohmann::json* content, std::string_view where,
                                        std::span<const std::string_view> types);

/// A field that the ZeroMQ protocol spells otherwise.
struct RenamedField {
  const char* from;
  const char* to;
};

/// Checks the fields of a request and reads those that all kinds have. `params`: the body, with
/// what has another form in the ZeroMQ protocol in that form; of `renamed` fields it has the names
/// of the body, which errors tell, too. To fields that take part in sampling it gives the defaults
/// of these APIs.
absl::StatusOr<ApiRequest> ReadSharedFields(const nlohmann::json& body, nlohmann::json params,
                                            ApiKind api, const ProtocolLimits& limits,
                                            std::span<const RenamedField> renamed = {});

}  // namespace tandem::frontend
