#include <fmt/format.h>

#include <algorithm>

#include "frontend/http/api/json_body.h"
#include "frontend/http/gateway.h"
#include "frontend/protocol/json_document.h"
#include "frontend/protocol/known_fields.h"
#include "frontend/protocol/protocol_fields.h"
#include "frontend/text/utf8.h"

namespace tandem::frontend {
namespace {

constexpr size_t kMostTokens = size_t{1} << 20;  // of one text; as many as /detokenize takes

/// What stands behind the route's beginning: a name, with slashes perhaps.
std::string NameInPath(const HttpRequest& request, std::string_view route) {
  std::string name = request.path.substr(route.size() - 1);
  if (name.ends_with('/')) name.pop_back();
  return name;
}

std::string TextOf(std::span<const TextSegment> segments) {
  std::string text;
  for (const TextSegment& segment : segments) text += segment.text;
  return text;
}

/// A text's tokens without the start token that the model's file may ask for.
absl::StatusOr<std::vector<int32_t>> EncodeTextAlone(const TextModel& model,
                                                     std::string_view text) {
  TANDEM_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, model.EncodeText(text));
  const absl::StatusOr<std::vector<int32_t>> start = model.EncodeText("");
  if (start.ok() && tokens.size() >= start->size() &&
      std::equal(start->begin(), start->end(), tokens.begin())) {
    tokens.erase(tokens.begin(), tokens.begin() + static_cast<int64_t>(start->size()));
  }
  return tokens;
}

absl::StatusOr<std::vector<int32_t>> EncodeChatWith(const TextModel& model,
                                                    std::span<const ChatMessage> messages,
                                                    const RenderOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(const std::vector<TextSegment> segments,
                          model.RenderChat(messages, options));
  return model.EncodeRendered(segments);
}

struct Tokenized {
  std::vector<int32_t> tokens;
  bool with_pieces = false;
};

/// vLLM's {"prompt", "add_special_tokens"} and llama.cpp's {"content", "add_special"}.
absl::StatusOr<Tokenized> TokenizeBody(const nlohmann::json& body, const TextModel& model,
                                       const ProtocolLimits& limits) {
  Tokenized result;
  TANDEM_RETURN_IF_ERROR(ReadBool(body, "with_pieces", result.with_pieces));
  TANDEM_RETURN_IF_ERROR(ReadBool(body, "return_token_strs", result.with_pieces));
  if (FindField(body, "messages") != nullptr) {
    UnknownFields unknown;
    TANDEM_ASSIGN_OR_RETURN(const std::vector<ChatMessage> messages,
                            ReadChatMessages(body, unknown));
    RenderOptions options;
    TANDEM_RETURN_IF_ERROR(ReadRendering(body, limits, options));
    TANDEM_ASSIGN_OR_RETURN(result.tokens, EncodeChatWith(model, messages, options));
    return result;
  }
  const nlohmann::json* prompt = FindField(body, "prompt");
  const nlohmann::json* content = FindField(body, "content");
  if ((prompt == nullptr) == (content == nullptr)) {
    return InvalidArgument("prompt: expected either prompt, content or messages, found {}",
                           prompt == nullptr ? "none" : "two of them");
  }
  const nlohmann::json* text = prompt != nullptr ? prompt : content;
  if (!text->is_string()) {
    return InvalidArgument("{}: expected a text, found {}",
                           prompt != nullptr ? "prompt" : "content", Shown(*text));
  }
  bool start = prompt != nullptr;
  TANDEM_RETURN_IF_ERROR(ReadBool(body, "add_special_tokens", start));
  TANDEM_RETURN_IF_ERROR(ReadBool(body, "add_special", start));
  const auto& words = text->get_ref<const std::string&>();
  TANDEM_ASSIGN_OR_RETURN(result.tokens,
                          start ? model.EncodeText(words) : EncodeTextAlone(model, words));
  return result;
}

/// A token's text; of bytes that are no text of their own a list of them, as of llama.cpp.
AnswerJson PieceOf(const std::string& bytes) {
  if (ValidUtf8Prefix(bytes) == bytes.size()) return bytes;
  AnswerJson list = AnswerJson::array();
  for (const char byte : bytes) list.push_back(static_cast<unsigned char>(byte));
  return list;
}

/// The answer, which is written at once: as a document it would take ten times the memory.
std::string TokenizedText(const Tokenized& result, const TextModel& model) {
  std::string text = fmt::format(R"({{"count":{},"max_model_len":{},"tokens":[)",
                                 result.tokens.size(), model.context());
  std::string pieces;
  std::string_view comma;
  for (const int32_t token : result.tokens) {
    text += comma;
    if (result.with_pieces) {
      const std::string bytes = model.TokenBytes(token);
      text += fmt::format(R"({{"id":{},"piece":{}}})", token, DumpJson(PieceOf(bytes)));
      pieces += comma;
      pieces += DumpJson(ReplaceInvalidUtf8(bytes));
    } else {
      text += std::to_string(token);
    }
    comma = ",";
  }
  text += ']';
  if (result.with_pieces) text += fmt::format(R"(,"token_strs":[{}])", pieces);
  return text += '}';
}

absl::StatusOr<std::string> DetokenizeBody(const nlohmann::json& body, const TextModel& model) {
  const nlohmann::json* list = FindField(body, "tokens");
  if (list == nullptr || !list->is_array()) {
    return InvalidArgument("tokens: expected a list of token ids, found {}",
                           list == nullptr ? "nothing" : Shown(*list));
  }
  std::vector<int32_t> tokens;
  TANDEM_RETURN_IF_ERROR(ReadTokens(*list, "tokens", tokens));
  std::string text;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] >= model.vocab()) {
      return InvalidArgument("tokens[{}]: the model has tokens 0 to {}, found {}", i,
                             model.vocab() - 1, tokens[i]);
    }
    text += model.TokenBytes(tokens[i]);
  }
  return text;
}

}  // namespace

AnswerJson Gateway::ModelJson(const std::string& name) const {
  return {{"id", name},
          {"object", "model"},
          {"created", created_},
          {"owned_by", "tandem"},
          {"root", model_},
          {"parent", nullptr},
          {"max_model_len", backend_.model().context()}};
}

void Gateway::HandleModels(const CallPointer& call) {
  if (call->route->path == "/v1/models/*") {
    const std::string name = NameInPath(call->request, call->route->path);
    if (const absl::Status status = CheckModel(name); !status.ok()) {
      return RespondError(call, status);
    }
    return RespondJson(call, ModelJson(name));
  }
  AnswerJson list = AnswerJson::array({ModelJson(model_)});
  for (const std::string& alias : options_.aliases) list.push_back(ModelJson(alias));
  RespondJson(call, {{"object", "list"}, {"data", std::move(list)}});
}

absl::StatusOr<nlohmann::json> Gateway::ParseTextBody(const std::string& text) const {
  TANDEM_ASSIGN_OR_RETURN(nlohmann::json body, ParseBody(text, options_.limits.depth));
  std::optional<std::string> model;
  TANDEM_RETURN_IF_ERROR(ReadText(body, "model", 0, options_.limits.id_bytes, model));
  TANDEM_RETURN_IF_ERROR(CheckModel(model.value_or("")));
  return body;
}

void Gateway::HandleTokenize(const CallPointer& call) {
  TokenizeInWorker(call, [this, call]() -> std::function<void()> {
    absl::StatusOr<std::string> text = [&]() -> absl::StatusOr<std::string> {
      TANDEM_ASSIGN_OR_RETURN(const nlohmann::json body, ParseTextBody(call->request.body));
      TANDEM_ASSIGN_OR_RETURN(const Tokenized result,
                              TokenizeBody(body, backend_.model(), options_.limits));
      if (result.tokens.size() > kMostTokens) {
        return InvalidArgument("the text has {} tokens, at most {} are told: send a part of it",
                               result.tokens.size(), kMostTokens);
      }
      return TokenizedText(result, backend_.model());
    }();
    return [this, call, text = std::move(text)]() mutable {
      if (!text.ok()) return RespondError(call, text.status());
      Respond(call, {.content_type = "application/json", .body = *std::move(text)});
    };
  });
}

void Gateway::HandleDetokenize(const CallPointer& call) {
  TokenizeInWorker(call, [this, call]() -> std::function<void()> {
    absl::StatusOr<std::string> text = [&]() -> absl::StatusOr<std::string> {
      TANDEM_ASSIGN_OR_RETURN(const nlohmann::json body, ParseTextBody(call->request.body));
      return DetokenizeBody(body, backend_.model());
    }();
    return [this, call, text = std::move(text)] {
      if (!text.ok()) return RespondError(call, text.status());
      RespondJson(call, {{"prompt", *text}, {"content", *text}});
    };
  });
}

void Gateway::HandleApplyTemplate(const CallPointer& call) {
  TokenizeInWorker(call, [this, call]() -> std::function<void()> {
    absl::StatusOr<std::string> text = [&]() -> absl::StatusOr<std::string> {
      TANDEM_ASSIGN_OR_RETURN(const nlohmann::json body, ParseTextBody(call->request.body));
      UnknownFields unknown;
      TANDEM_ASSIGN_OR_RETURN(const std::vector<ChatMessage> messages,
                              ReadChatMessages(body, unknown));
      RenderOptions options;
      TANDEM_RETURN_IF_ERROR(ReadRendering(body, options_.limits, options));
      TANDEM_ASSIGN_OR_RETURN(const std::vector<TextSegment> segments,
                              backend_.model().RenderChat(messages, options));
      return TextOf(segments);
    }();
    return [this, call, text = std::move(text)] {
      if (!text.ok()) return RespondError(call, text.status());
      RespondJson(call, {{"prompt", *text}});
    };
  });
}

void Gateway::HandleCountTokens(const CallPointer& call) {
  TokenizeInWorker(call, [this, call]() -> std::function<void()> {
    absl::StatusOr<size_t> count = [&]() -> absl::StatusOr<size_t> {
      TANDEM_ASSIGN_OR_RETURN(const nlohmann::json body,
                              ParseBody(call->request.body, options_.limits.depth));
      TANDEM_ASSIGN_OR_RETURN(const ApiRequest request,
                              ReadMessagesRequest(body, options_.limits, /*count_only=*/true));
      TANDEM_RETURN_IF_ERROR(CheckModel(request.model));
      const GenerateRequest& generate = request.generates.front();
      TANDEM_ASSIGN_OR_RETURN(
          const std::vector<int32_t> tokens,
          EncodeChatWith(backend_.model(), std::get<std::vector<ChatMessage>>(generate.input),
                         generate.render));
      return tokens.size();
    }();
    return [this, call, count = std::move(count)] {
      if (!count.ok()) return RespondError(call, count.status());
      RespondJson(call, {{"input_tokens", *count}});
    };
  });
}

void Gateway::HandleMetrics(const CallPointer& call) {
  backend_.Figures(
      [this, thread = thread_, call](const absl::StatusOr<parallel::EngineStatus>& figures) {
        thread->Post([this, call, figures] {
          Respond(call, {.content_type = std::string(kMetricsType),
                         .body = metrics_->Exposition(figures.ok() ? &*figures : nullptr,
                                                      server_->connections())});
        });
      });
}

void Gateway::HandleReady(const CallPointer& call) {
  readiness_->Ask([this, call](const absl::Status& status) {
    if (status.ok()) return RespondJson(call, {{"status", "ready"}});
    RespondError(call, MakeApiError(ErrorCode::kUnavailable, Message(status)));
  });
}

}  // namespace tandem::frontend
