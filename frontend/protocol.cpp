#include "frontend/protocol.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>

namespace tandem::frontend {
namespace {

using Json = nlohmann::json;

constexpr int kShownBytes = 40;  // of a found value, in messages

std::string Shown(const Json& value) {
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true);
  if (text.size() > kShownBytes) text = text.substr(0, kShownBytes) + "...";
  return text;
}

/// Depth of nesting, found without building anything, so that a hostile frame costs one pass.
int NestingDepth(std::string_view text) {
  int depth = 0;
  int deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return deepest;
}

/// The JSON document, or what is wrong with it and where.
absl::StatusOr<Json> ParseJson(std::string_view text, int depth_limit) {
  if (text.empty()) {
    return InvalidArgument("the frame is empty: send one JSON object, like {}",
                           R"({"v":1,"type":"ping","id":"p1"})");
  }
  if (const int depth = NestingDepth(text); depth > depth_limit) {
    return InvalidArgument("the frame nests {} levels deep, at most {} are allowed", depth,
                           depth_limit);
  }
  // The parser takes a zero byte for the end of the text.
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos) {
    return InvalidArgument("the frame is not JSON in UTF-8: byte {} is zero", zero + 1);
  }
  try {
    return Json::parse(text);
  } catch (const Json::parse_error& error) {
    return InvalidArgument("the frame is not JSON in UTF-8: the text goes wrong at byte {}",
                           error.byte);
  } catch (const Json::exception&) {
    return InvalidArgument("the frame holds a number too large for a double: send a smaller one");
  }
}

/// A number with an integral value that fits; JSON has no integers, so 64.0 is one too.
std::optional<int64_t> AsInteger(const Json& value) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<uint64_t>();
    if (number > uint64_t{std::numeric_limits<int64_t>::max()}) return std::nullopt;
    return static_cast<int64_t>(number);
  }
  if (value.is_number_integer()) return value.get<int64_t>();
  if (value.is_number_float()) {
    constexpr double kExact = 9007199254740992.0;  // 2^53
    const auto number = value.get<double>();
    if (std::abs(number) <= kExact && number == std::floor(number)) {
      return static_cast<int64_t>(number);
    }
  }
  return std::nullopt;
}

/// Member of an object, none where absent or null.
const Json* Find(const Json& object, const char* name) {
  const auto found = object.find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

absl::Status ReadInteger(const Json& object, const char* name, int64_t least, int64_t most,
                         std::optional<int64_t>& out) {
  const Json* value = Find(object, name);
  if (value == nullptr) return absl::OkStatus();
  const std::optional<int64_t> number = AsInteger(*value);
  if (!number || *number < least || *number > most) {
    return InvalidArgument("{}: expected an integer from {} to {}, found {}", name, least, most,
                           Shown(*value));
  }
  out = number;
  return absl::OkStatus();
}

/// A number in [least, most], or in (least, most] where `open`.
struct NumberRange {
  double least;
  double most;
  bool open = false;
};

absl::Status CheckNumber(const Json& value, const std::string& name, NumberRange range) {
  const double number = value.is_number() ? value.get<double>() : std::nan("");
  const bool enough = range.open ? number > range.least : number >= range.least;
  if (!std::isfinite(number) || !enough || number > range.most) {
    return InvalidArgument("{}: expected a number {} {} and at most {}, found {}", name,
                           range.open ? "above" : "of at least", range.least, range.most,
                           Shown(value));
  }
  return absl::OkStatus();
}

absl::Status ReadFloat(const Json& object, const char* name, NumberRange range, float& out) {
  const Json* value = Find(object, name);
  if (value == nullptr) return absl::OkStatus();
  TANDEM_RETURN_IF_ERROR(CheckNumber(*value, name, range));
  out = static_cast<float>(value->get<double>());
  return absl::OkStatus();
}

absl::Status ReadSeed(const Json& object, std::optional<uint64_t>& out) {
  const Json* value = Find(object, "seed");
  if (value == nullptr) return absl::OkStatus();
  if (value->is_number_unsigned()) {
    out = value->get<uint64_t>();
  } else if (const auto number = AsInteger(*value); number && *number >= 0) {
    out = static_cast<uint64_t>(*number);
  } else {
    return InvalidArgument(
        "seed: expected an integer from 0 to 18446744073709551615, found {}; leave it out for a "
        "random one",
        Shown(*value));
  }
  return absl::OkStatus();
}

absl::Status ReadStop(const Json& object, const ProtocolLimits& limits,
                      std::vector<std::string>& out) {
  const Json* value = Find(object, "stop");
  if (value == nullptr) return absl::OkStatus();
  const Json list = value->is_string() ? Json::array({*value}) : *value;
  if (!list.is_array() || list.size() > static_cast<size_t>(limits.stop_strings)) {
    return InvalidArgument("stop: expected a string or a list of at most {} strings, found {}",
                           limits.stop_strings, Shown(*value));
  }
  for (const Json& entry : list) {
    const auto* text = entry.get_ptr<const std::string*>();
    if (text == nullptr || text->empty() || text->size() > static_cast<size_t>(limits.stop_bytes)) {
      return InvalidArgument("stop: expected strings of 1 to {} bytes, found {}", limits.stop_bytes,
                             Shown(entry));
    }
    out.push_back(*text);
  }
  return absl::OkStatus();
}

constexpr NumberRange kBiasRange{.least = -1000, .most = 1000};

/// {"7042": -1.5}, or [[7042, -1.5]]. Whether the tokens exist is checked against the model later.
absl::Status ReadLogitBias(const Json& object, const ProtocolLimits& limits,
                           std::vector<std::pair<int32_t, float>>& out) {
  const Json* value = Find(object, "logit_bias");
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_structured() || value->size() > static_cast<size_t>(limits.logit_biases)) {
    return InvalidArgument(
        "logit_bias: expected at most {} biases, like {{\"7042\": -1.5}}, found {}",
        limits.logit_biases, Shown(*value));
  }
  const auto add = [&](std::optional<int64_t> token, const Json& shown,
                       const Json& bias) -> absl::Status {
    if (!token || *token < 0 || *token > std::numeric_limits<int32_t>::max()) {
      return InvalidArgument("logit_bias: expected a token id, found {}", Shown(shown));
    }
    TANDEM_RETURN_IF_ERROR(
        CheckNumber(bias, fmt::format("logit_bias of token {}", *token), kBiasRange));
    out.emplace_back(static_cast<int32_t>(*token), static_cast<float>(bias.get<double>()));
    return absl::OkStatus();
  };
  if (value->is_object()) {
    for (const auto& [key, bias] : value->items()) {
      const bool digits = !key.empty() && key.size() <= 10 &&
                          key.find_first_not_of("0123456789") == std::string::npos;
      TANDEM_RETURN_IF_ERROR(
          add(digits ? std::optional<int64_t>(std::stoll(key)) : std::nullopt, Json(key), bias));
    }
    return absl::OkStatus();
  }
  for (const Json& pair : *value) {
    if (!pair.is_array() || pair.size() != 2) {
      return InvalidArgument("logit_bias: expected [token, bias], found {}", Shown(pair));
    }
    TANDEM_RETURN_IF_ERROR(add(AsInteger(pair[0]), pair[0], pair[1]));
  }
  return absl::OkStatus();
}

/// A value by which a client asks for nothing.
bool AsksForNothing(const Json& value) {
  return value.is_null() || value == false || (value.is_number() && value == 0) ||
         ((value.is_string() || value.is_structured()) && value.empty());
}

absl::Status RefuseUnbuilt(const Json& object) {
  constexpr std::array kUnbuilt = {
      "conversation", "echo",        "logprobs",         "top_logprobs",
      "tools",        "tool_choice", "functions",        "response_format",
      "grammar",      "suffix",      "presence_penalty", "frequency_penalty",
      "best_of",
  };
  for (const char* name : kUnbuilt) {
    const auto found = object.find(name);
    if (found != object.end() && !AsksForNothing(*found)) {
      return Unimplemented("{}: this server does not have it yet; leave the field out{}", name,
                           std::string_view(name) == "conversation"
                               ? " and send all messages with each request"
                               : "");
    }
  }
  if (const Json* n = Find(object, "n"); n != nullptr && *n != 1) {
    return Unimplemented("n: this server makes one answer a request; leave the field out");
  }
  return absl::OkStatus();
}

absl::Status ReadParams(const Json& object, const ProtocolLimits& limits, GenerateRequest& out) {
  constexpr int64_t kMostInt32 = std::numeric_limits<int32_t>::max();
  constexpr double kMostSeconds = 30.0 * 24 * 3600;
  core::SamplingParams& sampling = out.params.sampling;
  TANDEM_RETURN_IF_ERROR(RefuseUnbuilt(object));
  TANDEM_RETURN_IF_ERROR(ReadInteger(object, "max_tokens", 0, kMostInt32, out.params.max_tokens));
  TANDEM_RETURN_IF_ERROR(
      ReadFloat(object, "temperature", {.least = 0, .most = 100}, sampling.temperature));
  std::optional<int64_t> top_k;
  TANDEM_RETURN_IF_ERROR(ReadInteger(object, "top_k", 0, kMostInt32, top_k));
  sampling.top_k = static_cast<int32_t>(top_k.value_or(sampling.top_k));
  TANDEM_RETURN_IF_ERROR(
      ReadFloat(object, "top_p", {.least = 0, .most = 1, .open = true}, sampling.top_p));
  TANDEM_RETURN_IF_ERROR(ReadFloat(object, "min_p", {.least = 0, .most = 1}, sampling.min_p));
  TANDEM_RETURN_IF_ERROR(ReadFloat(object, "repetition_penalty", {.least = 0.01, .most = 100},
                                   sampling.repetition_penalty));
  TANDEM_RETURN_IF_ERROR(ReadSeed(object, out.params.seed));
  TANDEM_RETURN_IF_ERROR(ReadStop(object, limits, out.params.stop));
  TANDEM_RETURN_IF_ERROR(ReadLogitBias(object, limits, sampling.logit_bias));
  if (const Json* deadline = Find(object, "deadline"); deadline != nullptr) {
    TANDEM_RETURN_IF_ERROR(CheckNumber(*deadline, "deadline (seconds from now)",
                                       {.least = 0, .most = kMostSeconds, .open = true}));
    out.deadline_seconds = deadline->get<double>();
  }
  return absl::OkStatus();
}

absl::Status ReadMessages(const Json& object, std::vector<ChatMessage>& out) {
  constexpr std::array kRoles = {"system", "user", "assistant", "tool"};
  const Json* value = Find(object, "messages");
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
    const Json* role = Find(message, "role");
    if (role == nullptr || std::find(kRoles.begin(), kRoles.end(), *role) == kRoles.end()) {
      return InvalidArgument(
          "messages[{}].role: expected \"system\", \"user\", \"assistant\" or \"tool\", found {}",
          i, role == nullptr ? "nothing" : Shown(*role));
    }
    const Json* content = Find(message, "content");
    if (content == nullptr || !content->is_string()) {
      return InvalidArgument("messages[{}].content: expected a string, found {}", i,
                             content == nullptr ? "nothing" : Shown(*content));
    }
    out.push_back({role->get<std::string>(), content->get<std::string>()});
  }
  return absl::OkStatus();
}

absl::StatusOr<GenerateRequest> ReadChat(const Json& object, const ProtocolLimits& limits) {
  GenerateRequest request;
  TANDEM_RETURN_IF_ERROR(ReadParams(object, limits, request));
  TANDEM_RETURN_IF_ERROR(ReadMessages(object, request.input.emplace<0>()));
  return request;
}

absl::StatusOr<GenerateRequest> ReadComplete(const Json& object, const ProtocolLimits& limits) {
  GenerateRequest request;
  TANDEM_RETURN_IF_ERROR(ReadParams(object, limits, request));
  const Json* prompt = Find(object, "prompt");
  const Json* tokens = Find(object, "tokens");
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
  auto& ids = request.input.emplace<2>();
  for (size_t i = 0; i < tokens->size(); ++i) {
    const std::optional<int64_t> id = AsInteger((*tokens)[i]);
    if (!id || *id < 0 || *id > std::numeric_limits<int32_t>::max()) {
      return InvalidArgument("tokens[{}]: expected a token id, found {}", i, Shown((*tokens)[i]));
    }
    ids.push_back(static_cast<int32_t>(*id));
  }
  return request;
}

absl::Status CheckVersion(const Json& object) {
  const Json* version = Find(object, "v");
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

absl::StatusOr<Request> ReadRequest(const Json& object, std::string id,
                                    const ProtocolLimits& limits) {
  TANDEM_RETURN_IF_ERROR(CheckVersion(object));
  const Json* type = Find(object, "type");
  if (type == nullptr || !type->is_string()) {
    return InvalidArgument(
        "type: expected \"chat\", \"complete\", \"cancel\", \"ping\" or \"status\", found {}",
        type == nullptr ? "nothing" : Shown(*type));
  }
  const auto& name = type->get_ref<const std::string&>();
  Request request{.id = std::move(id), .body = PingRequest{}};
  if (name == "ping") return request;
  if (name == "status") {
    request.body = StatusRequest{};
    return request;
  }
  if (name == "resume" || name.starts_with("conversation.")) {
    return Unimplemented("{}: this server does not have it yet", Shown(*type));
  }
  if (name != "chat" && name != "complete" && name != "cancel") {
    return InvalidArgument(
        "type: expected \"chat\", \"complete\", \"cancel\", \"ping\" or \"status\", found {}",
        Shown(*type));
  }
  if (request.id.empty()) {
    return InvalidArgument("id: a {} needs one, a string that is new on this connection", name);
  }
  if (name == "cancel") {
    request.body = CancelRequest{};
    return request;
  }
  TANDEM_ASSIGN_OR_RETURN(request.body,
                          name == "chat" ? ReadChat(object, limits) : ReadComplete(object, limits));
  request.fingerprint = std::hash<Json>{}(object);
  return request;
}

}  // namespace

std::string_view ErrorCodeName(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return "invalid_argument";
    case ErrorCode::kNotFound:
      return "not_found";
    case ErrorCode::kTooLarge:
      return "too_large";
    case ErrorCode::kOverloaded:
      return "overloaded";
    case ErrorCode::kUnavailable:
      return "unavailable";
    case ErrorCode::kUnimplemented:
      return "unimplemented";
    case ErrorCode::kDeadlineExceeded:
      return "deadline_exceeded";
    case ErrorCode::kCancelled:
      return "cancelled";
    case ErrorCode::kInternal:
      return "internal";
  }
  return "internal";
}

ErrorCode ErrorCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return ErrorCode::kInvalidArgument;
    case absl::StatusCode::kNotFound:
      return ErrorCode::kNotFound;
    case absl::StatusCode::kResourceExhausted:
      return ErrorCode::kOverloaded;
    case absl::StatusCode::kUnavailable:
      return ErrorCode::kUnavailable;
    case absl::StatusCode::kUnimplemented:
      return ErrorCode::kUnimplemented;
    case absl::StatusCode::kDeadlineExceeded:
      return ErrorCode::kDeadlineExceeded;
    case absl::StatusCode::kCancelled:
      return ErrorCode::kCancelled;
    default:
      return ErrorCode::kInternal;
  }
}

std::variant<Request, RequestError> ParseRequest(std::string_view frame,
                                                 const ProtocolLimits& limits) {
  if (static_cast<int64_t>(frame.size()) > limits.frame_bytes) {
    return RequestError{.id = std::nullopt,
                        .code = ErrorCode::kTooLarge,
                        .message = fmt::format("the frame has {} bytes, at most {} are taken: send "
                                               "less, or start the server with a larger limit",
                                               frame.size(), limits.frame_bytes)};
  }
  const auto refuse = [](const absl::Status& status, std::optional<std::string> id) {
    return RequestError{
        .id = std::move(id), .code = ErrorCodeOf(status), .message = Message(status)};
  };
  const absl::StatusOr<Json> object = ParseJson(frame, limits.depth);
  if (!object.ok()) return refuse(object.status(), std::nullopt);
  if (!object->is_object()) {
    return refuse(InvalidArgument("the frame is not a JSON object, but {}", Shown(*object)),
                  std::nullopt);
  }
  const absl::StatusOr<std::string> id = ReadId(*object, limits);
  if (!id.ok()) return refuse(id.status(), std::nullopt);
  absl::StatusOr<Request> request = ReadRequest(*object, *id, limits);
  if (!request.ok()) {
    return refuse(request.status(), id->empty() ? std::nullopt : std::optional(*id));
  }
  return *std::move(request);
}

}  // namespace tandem::frontend
