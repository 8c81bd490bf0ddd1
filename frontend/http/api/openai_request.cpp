#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "frontend/http/api/api_request.h"
#include "frontend/protocol/known_fields.h"
#include "frontend/protocol/protocol_fields.h"

namespace tandem::frontend {
namespace {

constexpr std::string_view kTextPart[] = {"text"};
constexpr int64_t kDefaultCompletionTokens = 16;  // as OpenAI has it

/// OpenAI's two fields become the protocol's one.
absl::Status JoinLogprobs(nlohmann::json& params) {
  const nlohmann::json* wanted = FindField(params, "logprobs");
  const nlohmann::json* top = FindField(params, "top_logprobs");
  if (wanted != nullptr && !wanted->is_boolean()) {
    return InvalidArgument("logprobs: expected true or false, found {}", Shown(*wanted));
  }
  const bool wants = wanted != nullptr && wanted->get<bool>();
  if (top != nullptr && !wants && *top != 0) {
    return InvalidArgument("top_logprobs: it needs logprobs, which is not true; found {}",
                           Shown(*top));
  }
  nlohmann::json joined;
  if (wants) joined = top == nullptr ? nlohmann::json(0) : *top;
  params.erase("top_logprobs");
  params["logprobs"] = std::move(joined);
  return absl::OkStatus();
}

/// The field is named as the client knows it.
absl::Status CheckTopLogprobs(const nlohmann::json& body, const ProtocolLimits& limits) {
  std::optional<int64_t> top;
  return ReadInteger(body, "top_logprobs", 0, limits.logprobs, top);
}

bool IsTokenList(const nlohmann::json& value) {
  return value.is_array() && !value.empty() &&
         std::all_of(value.begin(), value.end(),
                     [](const nlohmann::json& entry) { return entry.is_number(); });
}

using PromptInput = decltype(GenerateRequest::input);

absl::StatusOr<PromptInput> ReadPrompt(const nlohmann::json& prompt, const std::string& where) {
  if (prompt.is_string()) return PromptInput(prompt.get<std::string>());
  if (!IsTokenList(prompt)) {
    return InvalidArgument("{}: expected a text or a list of token ids, found {}", where,
                           Shown(prompt));
  }
  PromptInput input;
  TANDEM_RETURN_IF_ERROR(ReadTokens(prompt, where, input.emplace<2>()));
  return input;
}

}  // namespace

absl::StatusOr<std::vector<ChatMessage>> ReadChatMessages(const nlohmann::json& object,
                                                          UnknownFields& unknown) {
  constexpr std::array kRoles = {"system", "developer", "user", "assistant", "tool"};
  const nlohmann::json* list = FindField(object, "messages");
  if (list == nullptr || !list->is_array() || list->empty()) {
    return InvalidArgument(
        "messages: expected a list with at least one message, like "
        "[{{\"role\":\"user\",\"content\":\"Hi\"}}], found {}",
        list == nullptr ? "nothing" : Shown(*list));
  }
  std::vector<ChatMessage> messages;
  for (size_t i = 0; i < list->size(); ++i) {
    const nlohmann::json& message = (*list)[i];
    if (!message.is_object()) {
      return InvalidArgument("messages[{}]: expected an object, found {}", i, Shown(message));
    }
    const nlohmann::json* role = FindField(message, "role");
    if (role == nullptr || std::find(kRoles.begin(), kRoles.end(), *role) == kRoles.end()) {
      return InvalidArgument(
          "messages[{}].role: expected \"system\", \"developer\", \"user\", \"assistant\" or "
          "\"tool\", found {}",
          i, role == nullptr ? "nothing" : Shown(*role));
    }
    if (absl::Status status = CheckFields(message, FieldPlace::kMessage, unknown); !status.ok()) {
      return Unimplemented("messages[{}].{}", i, Message(status));
    }
    TANDEM_ASSIGN_OR_RETURN(std::string content,
                            ReadContent(FindField(message, "content"),
                                        fmt::format("messages[{}].content", i), kTextPart));
    auto name = role->get<std::string>();
    if (name == "developer") name = "system";
    messages.push_back({std::move(name), std::move(content)});
  }
  return messages;
}

absl::StatusOr<ApiRequest> ReadChatRequest(const nlohmann::json& body,
                                           const ProtocolLimits& limits) {
  nlohmann::json params = body;
  TANDEM_RETURN_IF_ERROR(CheckTopLogprobs(body, limits));
  TANDEM_RETURN_IF_ERROR(JoinLogprobs(params));
  TANDEM_ASSIGN_OR_RETURN(ApiRequest request,
                          ReadSharedFields(body, std::move(params), kChatApi, limits));
  TANDEM_ASSIGN_OR_RETURN(request.generates.front().input,
                          ReadChatMessages(body, request.unknown_fields));
  return request;
}

absl::StatusOr<ApiRequest> ReadCompletionRequest(const nlohmann::json& body,
                                                 const ProtocolLimits& limits) {
  TANDEM_ASSIGN_OR_RETURN(ApiRequest request,
                          ReadSharedFields(body, body, kCompletionsApi, limits));
  GenerateRequest first = std::move(request.generates.front());
  request.generates.clear();
  if (!first.params.max_tokens && FindField(body, "n_predict") == nullptr) {
    first.params.max_tokens = kDefaultCompletionTokens;
  }
  TANDEM_RETURN_IF_ERROR(ReadBool(body, "echo", first.echo));
  std::optional<int64_t> best_of;
  TANDEM_RETURN_IF_ERROR(ReadInteger(body, "best_of", 0, limits.samples, best_of));
  if (best_of.value_or(0) > 1 && *best_of != first.samples) {
    return Unimplemented(
        "best_of: this server does not choose among answers; leave the field out "
        "(found {})",
        *best_of);
  }
  const nlohmann::json* prompt = FindField(body, "prompt");
  if (prompt == nullptr) {
    return InvalidArgument(
        "prompt: expected a text, token ids, or a list of either, found nothing");
  }
  if (prompt->is_string() || IsTokenList(*prompt)) {
    TANDEM_ASSIGN_OR_RETURN(first.input, ReadPrompt(*prompt, "prompt"));
    request.generates.push_back(std::move(first));
    return request;
  }
  if (!prompt->is_array() || prompt->empty()) {
    return InvalidArgument("prompt: expected a text, token ids, or a list of either, found {}",
                           Shown(*prompt));
  }
  const size_t answers = prompt->size() * static_cast<size_t>(first.samples);
  if (answers > kMostAnswers) {
    return InvalidArgument("prompt: {} prompts with {} answers each are more than {}: send fewer",
                           prompt->size(), first.samples, kMostAnswers);
  }
  first.batch = static_cast<int32_t>(prompt->size());
  for (size_t i = 0; i < prompt->size(); ++i) {
    GenerateRequest& generate = request.generates.emplace_back(first);
    TANDEM_ASSIGN_OR_RETURN(generate.input, ReadPrompt((*prompt)[i], fmt::format("prompt[{}]", i)));
  }
  return request;
}

}  // namespace tandem::frontend
