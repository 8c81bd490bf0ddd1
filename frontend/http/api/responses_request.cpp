#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "frontend/http/api/api_request.h"
#include "frontend/protocol/known_fields.h"
#include "frontend/protocol/protocol_fields.h"

namespace tandem::frontend {
namespace {

constexpr RenamedField kResponsesNames[] = {{"max_output_tokens", "max_tokens"}};
constexpr std::string_view kInputParts[] = {"input_text", "output_text", "text"};

absl::Status ReadInputList(const nlohmann::json& list, std::vector<ChatMessage>& out,
                           UnknownFields& unknown) {
  constexpr std::array kRoles = {"system", "developer", "user", "assistant"};
  for (size_t i = 0; i < list.size(); ++i) {
    const nlohmann::json& item = list[i];
    if (!item.is_object()) {
      return InvalidArgument("input[{}]: expected an object, found {}", i, Shown(item));
    }
    if (const nlohmann::json* type = FindField(item, "type");
        type != nullptr && *type != "message") {
      return Unimplemented("input[{}].type: this server takes messages only, found {}", i,
                           Shown(*type));
    }
    const nlohmann::json* role = FindField(item, "role");
    if (role == nullptr || std::find(kRoles.begin(), kRoles.end(), *role) == kRoles.end()) {
      return InvalidArgument(
          "input[{}].role: expected \"system\", \"developer\", \"user\" or \"assistant\", found {}",
          i, role == nullptr ? "nothing" : Shown(*role));
    }
    if (absl::Status status = CheckFields(item, FieldPlace::kMessage, unknown); !status.ok()) {
      return Unimplemented("input[{}].{}", i, Message(status));
    }
    TANDEM_ASSIGN_OR_RETURN(
        std::string content,
        ReadContent(FindField(item, "content"), fmt::format("input[{}].content", i), kInputParts));
    auto name = role->get<std::string>();
    if (name == "developer") name = "system";
    out.push_back({std::move(name), std::move(content)});
  }
  return absl::OkStatus();
}

absl::Status ReadTruncation(const nlohmann::json& body, GenerateRequest& out) {
  const nlohmann::json* truncation = FindField(body, "truncation");
  if (truncation == nullptr) return absl::OkStatus();
  if (*truncation != "auto" && *truncation != "disabled") {
    return InvalidArgument("truncation: expected \"auto\" or \"disabled\", found {}",
                           Shown(*truncation));
  }
  if (out.context_policy) {
    return InvalidArgument("truncation: it stands beside context_policy; send one of them");
  }
  out.context_policy = ContextPolicy{.kind = *truncation == "auto" ? ContextPolicy::Kind::kShift
                                                                   : ContextPolicy::Kind::kStop};
  return absl::OkStatus();
}

/// "conversation": "name", or {"id": "name"} as OpenAI has it.
absl::Status NameConversation(nlohmann::json& params) {
  const nlohmann::json* conversation = FindField(params, "conversation");
  if (conversation == nullptr || !conversation->is_object()) return absl::OkStatus();
  const nlohmann::json* id = FindField(*conversation, "id");
  if (id == nullptr) {
    return InvalidArgument("conversation: expected a name, or an object with id, found {}",
                           Shown(*conversation));
  }
  nlohmann::json name = *id;
  params["conversation"] = std::move(name);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ApiRequest> ReadResponsesRequest(const nlohmann::json& body,
                                                const ProtocolLimits& limits) {
  nlohmann::json params = body;
  TANDEM_RETURN_IF_ERROR(NameConversation(params));
  TANDEM_ASSIGN_OR_RETURN(
      ApiRequest request,
      ReadSharedFields(body, std::move(params), kResponsesApi, limits, kResponsesNames));
  GenerateRequest& generate = request.generates.front();
  TANDEM_RETURN_IF_ERROR(ReadTruncation(body, generate));
  TANDEM_RETURN_IF_ERROR(
      ReadText(body, "previous_response_id", 1, limits.id_bytes, request.previous_response));
  // A conversation has whole messages only.
  request.store = !generate.conversation && generate.render.add_generation_prompt;
  TANDEM_RETURN_IF_ERROR(ReadBool(body, "store", request.store));
  if (generate.conversation && request.previous_response) {
    return InvalidArgument("previous_response_id: it stands beside conversation; send one of them");
  }
  auto& messages = generate.input.emplace<std::vector<ChatMessage>>();
  const nlohmann::json* instructions = FindField(body, "instructions");
  if (instructions != nullptr) {
    if (!instructions->is_string()) {
      return InvalidArgument("instructions: expected a text, found {}", Shown(*instructions));
    }
    messages.push_back({"system", instructions->get<std::string>()});
    request.has_instructions = true;
  }
  const nlohmann::json* input = FindField(body, "input");
  if (input == nullptr || !(input->is_string() || (input->is_array() && !input->empty()))) {
    return InvalidArgument("input: expected a text or a list of messages, found {}",
                           input == nullptr ? "nothing" : Shown(*input));
  }
  if (input->is_string()) {
    messages.push_back({"user", input->get<std::string>()});
  } else {
    TANDEM_RETURN_IF_ERROR(ReadInputList(*input, messages, request.unknown_fields));
  }
  nlohmann::ordered_json& told = request.told = nlohmann::ordered_json::object();
  for (const char* name : {"instructions", "max_output_tokens", "previous_response_id",
                           "temperature", "top_p", "truncation", "user"}) {
    if (const nlohmann::json* value = FindField(body, name); value != nullptr) told[name] = *value;
  }
  if (const nlohmann::json* metadata = FindField(body, "metadata"); metadata != nullptr) {
    if (!metadata->is_object()) {
      return InvalidArgument("metadata: expected an object, found {}", Shown(*metadata));
    }
    told["metadata"] = *metadata;
  }
  if (generate.conversation) told["conversation"] = {{"id", *generate.conversation}};
  told["store"] = request.store;
  return request;
}

}  // namespace tandem::frontend
