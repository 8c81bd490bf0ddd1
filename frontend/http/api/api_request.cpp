#include "frontend/http/api/api_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "frontend/protocol/known_fields.h"
#include "frontend/protocol/protocol_fields.h"

namespace tandem::frontend {
namespace {

/// Fields that `chat` has in the ZeroMQ protocol, and ReadParams leaves to its caller.
absl::Status ReadConversationFields(const nlohmann::json& object, const ProtocolLimits& limits,
                                    GenerateRequest& out) {
  TANDEM_RETURN_IF_ERROR(
      ReadText(object, "conversation", 1, limits.conversation_bytes, out.conversation));
  if (out.conversation && out.samples > 1) {
    return InvalidArgument("n: a conversation goes on with one answer; send n 1, found {}",
                           out.samples);
  }
  TANDEM_RETURN_IF_ERROR(ReadBool(object, "accept_damage", out.accept_damage));
  std::optional<std::string> policy;
  TANDEM_RETURN_IF_ERROR(ReadText(object, "context_policy", 1, limits.id_bytes, policy));
  if (policy) {
    const absl::StatusOr<ContextPolicy> parsed = ParseContextPolicy(*policy);
    if (!parsed.ok()) return InvalidArgument("context_policy: {}", Message(parsed.status()));
    out.context_policy = *parsed;
  }
  return absl::OkStatus();
}

/// OpenAI's seeds may be negative.
void MakeSeedUnsigned(nlohmann::json& params) {
  const nlohmann::json* seed = FindField(params, "seed");
  if (seed == nullptr) return;
  const std::optional<int64_t> number = AsInteger(*seed);
  if (number && *number < 0) params["seed"] = static_cast<uint64_t>(*number);
}

/// Moves a field under another name. kInvalidArgument where that is there too and differs.
absl::Status RenameField(nlohmann::json& object, const char* from, const char* to) {
  const nlohmann::json* value = FindField(object, from);
  if (value == nullptr) {
    object.erase(from);
    return absl::OkStatus();
  }
  const nlohmann::json* other = FindField(object, to);
  if (other != nullptr && *other != *value) {
    return InvalidArgument("{}: it stands beside {}, which means the same: send one of them", from,
                           to);
  }
  nlohmann::json moved = *value;
  object.erase(from);
  object[to] = std::move(moved);
  return absl::OkStatus();
}

/// An error that begins with the protocol's name of a field begins with the body's.
absl::Status NamedAsInBody(const absl::Status& status, const nlohmann::json& body,
                           std::span<const RenamedField> renamed) {
  std::string message = Message(status);
  for (const auto& [from, to] : renamed) {
    const std::string_view name(to);
    const bool begins = message.starts_with(name) && message.size() > name.size() &&
                        (message[name.size()] == ':' || message[name.size()] == '[');
    if (begins && FindField(body, from) != nullptr && FindField(body, to) == nullptr) {
      message.replace(0, name.size(), from);
      return absl::Status(status.code(), message);
    }
  }
  return status;
}

constexpr RenamedField kUser[] = {{"user", "tenant"}};

}  // namespace

absl::StatusOr<std::string> ReadContent(const nlohmann::json* content, std::string_view where,
                                        std::span<const std::string_view> types) {
  if (content == nullptr || content->is_null()) return std::string();
  if (content->is_string()) return content->get<std::string>();
  if (!content->is_array()) {
    return InvalidArgument("{}: expected a text or a list of text parts, found {}", where,
                           Shown(*content));
  }
  std::string text;
  for (size_t i = 0; i < content->size(); ++i) {
    const nlohmann::json& part = (*content)[i];
    if (!part.is_object()) {
      return InvalidArgument("{}[{}]: expected an object with type and text, found {}", where, i,
                             Shown(part));
    }
    const nlohmann::json* type = FindField(part, "type");
    if (type == nullptr || std::find(types.begin(), types.end(), *type) == types.end()) {
      return Unimplemented("{}[{}].type: this server takes parts of type {} only, found {}", where,
                           i, types.front(), type == nullptr ? "none" : Shown(*type));
    }
    const nlohmann::json* words = FindField(part, "text");
    if (words == nullptr || !words->is_string()) {
      return InvalidArgument("{}[{}].text: expected a text, found {}", where, i,
                             words == nullptr ? "nothing" : Shown(*words));
    }
    if (i > 0) text += "\n";
    text += words->get_ref<const std::string&>();
  }
  return text;
}

absl::StatusOr<ApiRequest> ReadSharedFields(const nlohmann::json& body, nlohmann::json params,
                                            ApiKind api, const ProtocolLimits& limits,
                                            std::span<const RenamedField> renamed) {
  ApiRequest request;
  TANDEM_RETURN_IF_ERROR(CheckHttpFields(body, api, request.unknown_fields));
  std::optional<std::string> model;
  TANDEM_RETURN_IF_ERROR(ReadText(body, "model", 0, limits.id_bytes, model));
  request.model = model.value_or("");
  TANDEM_RETURN_IF_ERROR(ReadBool(body, "stream", request.stream));
  if (const nlohmann::json* options = FindField(body, "stream_options"); options != nullptr) {
    if (!options->is_object()) {
      return InvalidArgument("stream_options: expected an object, found {}", Shown(*options));
    }
    TANDEM_RETURN_IF_ERROR(ReadBool(*options, "include_usage", request.include_usage));
  }
  DropNeutralFields(api, params);
  TANDEM_RETURN_IF_ERROR(RenameField(params, kUser[0].from, kUser[0].to));
  for (const auto& [from, to] : renamed) TANDEM_RETURN_IF_ERROR(RenameField(params, from, to));
  MakeSeedUnsigned(params);
  if (FindField(params, "temperature") == nullptr) params["temperature"] = 1;
  GenerateRequest& generate = request.generates.emplace_back();
  absl::Status read = ReadParams(params, limits, generate);
  if (!read.ok()) return NamedAsInBody(NamedAsInBody(read, body, kUser), body, renamed);
  if (api != kCompletionsApi) {
    TANDEM_RETURN_IF_ERROR(ReadConversationFields(params, limits, generate));
    TANDEM_RETURN_IF_ERROR(ReadRendering(params, limits, generate.render));
  }
  return request;
}

}  // namespace tandem::frontend
