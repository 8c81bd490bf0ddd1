#include <fmt/format.h>

#include "frontend/http/api/api_request.h"
#include "frontend/protocol/known_fields.h"
#include "frontend/protocol/protocol_fields.h"

namespace tandem::frontend {
namespace {

constexpr std::string_view kTextBlock[] = {"text"};
constexpr RenamedField kMessagesNames[] = {{"stop_sequences", "stop"}};

absl::Status ReadMessageList(const nlohmann::json& body, std::vector<ChatMessage>& out,
                             UnknownFields& unknown) {
  const nlohmann::json* list = FindField(body, "messages");
  if (list == nullptr || !list->is_array() || list->empty()) {
    return InvalidArgument("messages: expected a list with at least one message, found {}",
                           list == nullptr ? "nothing" : Shown(*list));
  }
  for (size_t i = 0; i < list->size(); ++i) {
    const nlohmann::json& message = (*list)[i];
    if (!message.is_object()) {
      return InvalidArgument("messages[{}]: expected an object, found {}", i, Shown(message));
    }
    const nlohmann::json* role = FindField(message, "role");
    if (role == nullptr || (*role != "user" && *role != "assistant")) {
      return InvalidArgument("messages[{}].role: expected \"user\" or \"assistant\", found {}", i,
                             role == nullptr ? "nothing" : Shown(*role));
    }
    if (absl::Status status = CheckFields(message, FieldPlace::kMessage, unknown); !status.ok()) {
      return Unimplemented("messages[{}].{}", i, Message(status));
    }
    TANDEM_ASSIGN_OR_RETURN(std::string content,
                            ReadContent(FindField(message, "content"),
                                        fmt::format("messages[{}].content", i), kTextBlock));
    out.push_back({role->get<std::string>(), std::move(content)});
  }
  return absl::OkStatus();
}

/// The answer was begun, and is to be gone on with.
bool LastIsAnswer(const nlohmann::json& body) {
  const nlohmann::json* list = FindField(body, "messages");
  if (list == nullptr || !list->is_array() || list->empty() || !list->back().is_object()) {
    return false;
  }
  const nlohmann::json* role = FindField(list->back(), "role");
  return role != nullptr && *role == "assistant";
}

}  // namespace

absl::StatusOr<ApiRequest> ReadMessagesRequest(const nlohmann::json& body,
                                               const ProtocolLimits& limits, bool count_only) {
  nlohmann::json params = body;
  if (LastIsAnswer(body) && FindField(body, "continue_final_message") == nullptr) {
    params["continue_final_message"] = true;
  }
  if (const nlohmann::json* metadata = FindField(body, "metadata"); metadata != nullptr) {
    if (!metadata->is_object()) {
      return InvalidArgument("metadata: expected an object, found {}", Shown(*metadata));
    }
    const nlohmann::json* user = FindField(*metadata, "user_id");
    if (user != nullptr && FindField(body, "user") == nullptr &&
        FindField(body, "tenant") == nullptr) {
      params["tenant"] = *user;
    }
  }
  TANDEM_ASSIGN_OR_RETURN(
      ApiRequest request,
      ReadSharedFields(body, std::move(params), kMessagesApi, limits, kMessagesNames));
  GenerateRequest& generate = request.generates.front();
  if (!count_only && FindField(body, "max_tokens") == nullptr) {
    return InvalidArgument(
        "max_tokens: expected the most tokens that the answer may have, found "
        "nothing");
  }
  auto& messages = generate.input.emplace<std::vector<ChatMessage>>();
  TANDEM_ASSIGN_OR_RETURN(std::string system,
                          ReadContent(FindField(body, "system"), "system", kTextBlock));
  if (!system.empty()) messages.push_back({"system", std::move(system)});
  TANDEM_RETURN_IF_ERROR(ReadMessageList(body, messages, request.unknown_fields));
  return request;
}

}  // namespace tandem::frontend
