#include "frontend/protocol/protocol.h"

#include <algorithm>
#include <array>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>

#include "frontend/protocol/json_document.h"
#include "frontend/protocol/known_fields.h"
#include "frontend/protocol/protocol_fields.h"

namespace tandem::frontend {
namespace {

using Json = nlohmann::json;

/// Reads a document up to the id of the object that it is.
class IdFinder final : public nlohmann::json_sax<Json> {
 public:
  std::string id;

  bool key(std::string& name) override {
    is_id_ = depth_ == 1 && name == "id";
    return true;
  }
  bool string(std::string& text) override {
    if (is_id_) id = std::move(text);
    return Value();
  }
  bool start_object(size_t) override { return Begin(); }
  bool start_array(size_t) override { return Begin() && depth_ > 1; }
  bool end_object() override { return --depth_ > 0; }
  bool end_array() override { return --depth_ > 0; }
  bool null() override { return Value(); }
  bool boolean(bool) override { return Value(); }
  bool number_integer(int64_t) override { return Value(); }
  bool number_unsigned(uint64_t) override { return Value(); }
  bool number_float(double, const std::string&) override { return Value(); }
  bool binary(Json::binary_t&) override { return Value(); }
  bool parse_error(size_t, const std::string&, const Json::exception&) override { return false; }

 private:
  /// An id ends the search, of whatever type it is.
  bool Value() const { return !is_id_ && depth_ > 0; }
  bool Begin() {
    ++depth_;
    return !is_id_;
  }

  int64_t depth_ = 0;
  bool is_id_ = false;
};

absl::StatusOr<Json> ParseFrame(std::string_view text, int depth_limit) {
  if (text.empty()) {
    return InvalidArgument("the frame is empty: send one JSON object, like {}",
                           R"({"v":1,"type":"ping","id":"p1"})");
  }
  return ParseDocument(text, "the frame", {.depth = depth_limit});
}

absl::Status ReadMessages(const Json& object, std::vector<ChatMessage>& out,
                          UnknownFields& unknown) {
  constexpr std::array kRoles = {"system", "user", "assistant", "tool"};
  const Json* value = FindField(object, "messages");
  if (value == nullptr || !value->is_array() || value->empty()) {
    return InvalidArgument(
        "messages: expected a list with at least one message, like "
        "[{{\"role\":\"user\",\"content\":\"Hi\"}}], found {}",
        value == nullptr ? "nothing" : Shown(*value));
  }
  for (size_t i = 0; i < value->size(); ++i) {
    const Json& message = (*value)[i];
    if (!message.is_object()) {
      return InvalidArgument("messages[{}]: expected an object, found {}", i, Shown(message));
    }
    const Json* role = FindField(message, "role");
    if (role == nullptr || std::find(kRoles.begin(), kRoles.end(), *role) == kRoles.end()) {
      return InvalidArgument(
          "messages[{}].role: expected \"system\", \"user\", \"assistant\" or \"tool\", found {}",
          i, role == nullptr ? "nothing" : Shown(*role));
    }
    const Json* content = FindField(message, "content");
    if (content == nullptr || !content->is_string()) {
      return InvalidArgument("messages[{}].content: expected a string, found {}", i,
                             content == nullptr ? "nothing" : Shown(*content));
    }
    if (absl::Status status = CheckFields(message, FieldPlace::kMessage, unknown); !status.ok()) {
      return Unimplemented("messages[{}].{}", i, Message(status));
    }
    out.push_back({role->get<std::string>(), content->get<std::string>()});
  }
  return absl::OkStatus();
}

/// A field that is for the other of chat and complete.
absl::Status RefuseOthers(const Json& object, std::span<const char* const> names,
                          std::string_view its, std::string_view other) {
  for (const char* name : names) {
    if (const Json* value = FindField(object, name); value != nullptr) {
      return InvalidArgument("{}: it is for {}, and not for {}; found {}", name, other, its,
                             Shown(*value));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<GenerateRequest> ReadChat(const Json& object, const ProtocolLimits& limits,
                                         UnknownFields& unknown) {
  constexpr const char* kOthers[] = {"prompt", "tokens"};
  GenerateRequest request;
  TANDEM_RETURN_IF_ERROR(CheckFields(object, FieldPlace::kChat, unknown));
  TANDEM_RETURN_IF_ERROR(RefuseOthers(object, kOthers, "chat", "complete"));
  TANDEM_RETURN_IF_ERROR(ReadParams(object, limits, request));
  TANDEM_RETURN_IF_ERROR(ReadMessages(object, request.input.emplace<0>(), unknown));
  TANDEM_RETURN_IF_ERROR(
      ReadText(object, "conversation", 1, limits.conversation_bytes, request.conversation));
  if (request.conversation && request.samples > 1) {
    return InvalidArgument("n: a conversation goes on with one answer; send n 1, found {}",
                           request.samples);
  }
  TANDEM_RETURN_IF_ERROR(ReadBool(object, "accept_damage", request.accept_damage));
  std::optional<std::string> policy;
  TANDEM_RETURN_IF_ERROR(ReadText(object, "context_policy", 1, limits.id_bytes, policy));
  if (policy) {
    const absl::StatusOr<ContextPolicy> parsed = ParseContextPolicy(*policy);
    if (!parsed.ok()) return InvalidArgument("context_policy: {}", Message(parsed.status()));
    request.context_policy = *parsed;
  }
  TANDEM_RETURN_IF_ERROR(ReadRendering(object, limits, request.render));
  bool echo = false;
  TANDEM_RETURN_IF_ERROR(ReadBool(object, "echo", echo));
  if (echo) return InvalidArgument("echo: it is for complete; a chat has no text to repeat");
  return request;
}

absl::StatusOr<GenerateRequest> ReadComplete(const Json& object, const ProtocolLimits& limits,
                                             UnknownFields& unknown) {
  constexpr const char* kOthers[] = {"conversation", "context_policy", "messages", "accept_damage"};
  GenerateRequest request;
  TANDEM_RETURN_IF_ERROR(CheckFields(object, FieldPlace::kComplete, unknown));
  TANDEM_RETURN_IF_ERROR(RefuseOthers(object, kOthers, "complete", "chat"));
  TANDEM_RETURN_IF_ERROR(ReadParams(object, limits, request));
  TANDEM_RETURN_IF_ERROR(ReadBool(object, "echo", request.echo));
  const Json* prompt = FindField(object, "prompt");
  const Json* tokens = FindField(object, "tokens");
  if ((prompt == nullptr) == (tokens == nullptr)) {
    return InvalidArgument("complete: expected either prompt or tokens, found {}",
                           prompt == nullptr ? "neither" : "both");
  }
  if (prompt != nullptr) {
    if (!prompt->is_string()) {
      return InvalidArgument("prompt: expected a string, found {}", Shown(*prompt));
    }
    request.input = prompt->get<std::string>();
    return request;
  }
  if (!tokens->is_array() || tokens->empty()) {
    return InvalidArgument("tokens: expected a list of at least one token id, found {}",
                           Shown(*tokens));
  }
  TANDEM_RETURN_IF_ERROR(ReadTokens(*tokens, "tokens", request.input.emplace<2>()));
  return request;
}

absl::Status CheckVersion(const Json& object) {
  const Json* version = FindField(object, "v");
  if (version == nullptr || *version == 1) return absl::OkStatus();
  return InvalidArgument("v: this server speaks version 1 of the protocol, found {}: send \"v\":1",
                         Shown(*version));
}

absl::StatusOr<std::string> ReadId(const Json& object, const ProtocolLimits& limits) {
  const auto found = object.find("id");
  if (found == object.end()) return std::string();
  const auto* id = found->get_ptr<const std::string*>();
  if (id == nullptr || id->empty() || id->size() > static_cast<size_t>(limits.id_bytes)) {
    return InvalidArgument("id: expected a string of 1 to {} bytes, found {}", limits.id_bytes,
                           Shown(*found));
  }
  return *id;
}

/// A name that must be there.
absl::StatusOr<std::string> ReadName(const Json& object, const char* name, int64_t most) {
  std::optional<std::string> text;
  TANDEM_RETURN_IF_ERROR(ReadText(object, name, 1, most, text));
  if (!text) {
    return InvalidArgument("{}: expected the name of a conversation, found nothing", name);
  }
  return *std::move(text);
}

using Body = decltype(Request::body);

/// `name`: what stands behind "conversation." in the type.
absl::StatusOr<Body> ReadConversationRequest(std::string_view name, const Json& object,
                                             const ProtocolLimits& limits) {
  std::optional<std::string> tenant;
  TANDEM_RETURN_IF_ERROR(ReadText(object, "tenant", 0, limits.tenant_bytes, tenant));
  if (name == "list") {
    std::optional<std::string> after;
    TANDEM_RETURN_IF_ERROR(ReadText(object, "after", 0, limits.conversation_bytes, after));
    std::optional<int64_t> limit;
    TANDEM_RETURN_IF_ERROR(ReadInteger(object, "limit", 1, limits.listed_conversations, limit));
    return ConversationListRequest{.tenant = tenant.value_or(""),
                                   .after = after.value_or(""),
                                   .limit = limit.value_or(limits.listed_conversations)};
  }
  TANDEM_ASSIGN_OR_RETURN(std::string conversation,
                          ReadName(object, "conversation", limits.conversation_bytes));
  if (name == "get") {
    std::optional<int64_t> from;
    TANDEM_RETURN_IF_ERROR(
        ReadInteger(object, "from", 0, std::numeric_limits<int32_t>::max(), from));
    return ConversationGetRequest{.tenant = tenant.value_or(""),
                                  .conversation = std::move(conversation),
                                  .from = from.value_or(0)};
  }
  if (name == "delete") {
    return ConversationDeleteRequest{.tenant = tenant.value_or(""),
                                     .conversation = std::move(conversation)};
  }
  TANDEM_ASSIGN_OR_RETURN(std::string to, ReadName(object, "to", limits.conversation_bytes));
  return ConversationForkRequest{
      .tenant = tenant.value_or(""), .conversation = std::move(conversation), .to = std::move(to)};
}

constexpr int64_t kMostRanks = 1 << 16;  // of a scale

constexpr std::array<std::string_view, 11> kTypes = {"chat",
                                                     "complete",
                                                     "cancel",
                                                     "resume",
                                                     "ping",
                                                     "status",
                                                     "scale",
                                                     "conversation.list",
                                                     "conversation.get",
                                                     "conversation.delete",
                                                     "conversation.fork"};

absl::Status CheckType(const Json* type) {
  if (type != nullptr && std::find(kTypes.begin(), kTypes.end(), *type) != kTypes.end()) {
    return absl::OkStatus();
  }
  std::string known;
  for (const std::string_view name : kTypes) {
    known += fmt::format("{}{}", known.empty() ? "" : ", ", name);
  }
  return InvalidArgument("type: expected one of {}; found {}", known,
                         type == nullptr ? "nothing" : Shown(*type));
}

absl::StatusOr<Request> ReadRequest(const Json& object, std::string id,
                                    const ProtocolLimits& limits) {
  constexpr std::string_view kConversation = "conversation.";
  TANDEM_RETURN_IF_ERROR(CheckVersion(object));
  const Json* type = FindField(object, "type");
  TANDEM_RETURN_IF_ERROR(CheckType(type));
  const auto& name = type->get_ref<const std::string&>();
  Request request{.id = std::move(id), .body = PingRequest{}};
  UnknownFields& unknown = request.unknown_fields;
  if (name != "chat" && name != "complete") {
    TANDEM_RETURN_IF_ERROR(CheckFields(object, FieldPlace::kOther, unknown));
  }
  if (name == "ping") return request;
  if (name == "status") {
    request.body = StatusRequest{};
    return request;
  }
  if (name == "scale") {
    std::optional<int64_t> ranks;
    TANDEM_RETURN_IF_ERROR(ReadInteger(object, "ranks", 1, kMostRanks, ranks));
    if (!ranks) return InvalidArgument("ranks: a scale needs it, the number that is wanted");
    request.body = ScaleRequest{.ranks = static_cast<int32_t>(*ranks)};
    return request;
  }
  if (name.starts_with(kConversation)) {
    TANDEM_ASSIGN_OR_RETURN(
        request.body, ReadConversationRequest(std::string_view(name).substr(kConversation.size()),
                                              object, limits));
    return request;
  }
  if (request.id.empty()) {
    return InvalidArgument("id: a {} needs one, a string {}", name,
                           name == "cancel" || name == "resume"
                               ? "that names a request of this connection"
                               : "that is new on this connection");
  }
  if (name == "cancel") {
    request.body = CancelRequest{};
    return request;
  }
  if (name == "resume") {
    ResumeRequest resume;
    TANDEM_RETURN_IF_ERROR(
        ReadInteger(object, "last_seq", -1, std::numeric_limits<int64_t>::max(), resume.last_seq));
    request.body = resume;
    return request;
  }
  TANDEM_ASSIGN_OR_RETURN(request.body, name == "chat" ? ReadChat(object, limits, unknown)
                                                       : ReadComplete(object, limits, unknown));
  request.fingerprint = std::hash<Json>{}(object);
  return request;
}

}  // namespace

std::string TooLarge(uint64_t bytes, const ProtocolLimits& limits) {
  return fmt::format(
      "the frame has {} bytes, at most {} are taken: send less, or start the server with a larger "
      "--max-message",
      bytes, limits.frame_bytes);
}

std::string IdIn(std::string_view beginning, const ProtocolLimits& limits) {
  IdFinder finder;
  Json::sax_parse(beginning, &finder);
  if (finder.id.size() > static_cast<size_t>(limits.id_bytes)) return "";
  return std::move(finder.id);
}

std::variant<Request, RequestError> ParseRequest(std::string_view frame,
                                                 const ProtocolLimits& limits) {
  if (static_cast<int64_t>(frame.size()) > limits.frame_bytes) {
    return RequestError{
        .id = IdIn(frame.substr(0, static_cast<size_t>(limits.frame_bytes)), limits),
        .code = ErrorCode::kTooLarge,
        .message = TooLarge(frame.size(), limits)};
  }
  const auto refuse = [](const absl::Status& status, std::string id) {
    return RequestError{
        .id = std::move(id), .code = ErrorCodeOf(status), .message = Message(status)};
  };
  const absl::StatusOr<Json> object = ParseFrame(frame, limits.depth);
  if (!object.ok()) return refuse(object.status(), IdIn(frame, limits));
  if (!object->is_object()) {
    return refuse(InvalidArgument("the frame is not a JSON object, but {}", Shown(*object)), "");
  }
  const absl::StatusOr<std::string> id = ReadId(*object, limits);
  if (!id.ok()) return refuse(id.status(), "");
  absl::StatusOr<Request> request = ReadRequest(*object, *id, limits);
  if (!request.ok()) return refuse(request.status(), *id);
  return *std::move(request);
}

}  // namespace tandem::frontend
