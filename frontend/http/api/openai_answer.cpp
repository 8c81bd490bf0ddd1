#include "frontend/http/api/openai_answer.h"

#include <fmt/format.h>

#include <cmath>
#include <span>
#include <utility>

#include "frontend/chat/generation.h"
#include "frontend/http/api/api_error.h"
#include "frontend/protocol/json_document.h"
#include "frontend/text/utf8.h"

namespace tandem::frontend {
namespace {

AnswerJson LogprobValue(float logprob) {
  return std::isfinite(logprob) ? AnswerJson(logprob) : AnswerJson();
}

AnswerJson ChatTokenJson(const TextModel& model, const parallel::TokenLogprob& token) {
  const std::string bytes = model.TokenBytes(token.token);
  AnswerJson list = AnswerJson::array();
  for (const char byte : bytes) list.push_back(static_cast<unsigned char>(byte));
  return {{"token", ReplaceInvalidUtf8(bytes)},
          {"logprob", LogprobValue(token.logprob)},
          {"bytes", std::move(list)}};
}

/// {"content":[{"token","logprob","bytes","top_logprobs":[...]}],"refusal":null}
AnswerJson ChatLogprobs(const TextModel& model, std::span<const parallel::TokenLogprobs> tokens) {
  AnswerJson content = AnswerJson::array();
  for (const parallel::TokenLogprobs& token : tokens) {
    AnswerJson json = ChatTokenJson(model, token.chosen);
    AnswerJson& top = json["top_logprobs"] = AnswerJson::array();
    for (const parallel::TokenLogprob& other : token.top) {
      top.push_back(ChatTokenJson(model, other));
    }
    content.push_back(std::move(json));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

/// The older form: four lists. `offset`: characters of the text before, which goes on.
AnswerJson CompletionLogprobs(const TextModel& model,
                              std::span<const parallel::TokenLogprobs> tokens, int64_t& offset) {
  AnswerJson json = {{"tokens", AnswerJson::array()},
                     {"token_logprobs", AnswerJson::array()},
                     {"top_logprobs", AnswerJson::array()},
                     {"text_offset", AnswerJson::array()}};
  for (const parallel::TokenLogprobs& token : tokens) {
    const std::string bytes = model.TokenBytes(token.chosen.token);
    const std::string text = ReplaceInvalidUtf8(bytes);
    json["tokens"].push_back(text);
    json["token_logprobs"].push_back(LogprobValue(token.chosen.logprob));
    AnswerJson top = AnswerJson::object();
    for (const parallel::TokenLogprob& other : token.top) {
      top[ReplaceInvalidUtf8(model.TokenBytes(other.token))] = LogprobValue(other.logprob);
    }
    json["top_logprobs"].push_back(std::isfinite(token.chosen.logprob) ? std::move(top)
                                                                       : AnswerJson());
    json["text_offset"].push_back(offset);
    for (const char byte : bytes) offset += (static_cast<unsigned char>(byte) & 0xC0U) != 0x80;
  }
  return json;
}

AnswerJson UsageJson(const parallel::Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.reused_tokens}}},
          {"completion_tokens_details", {{"reasoning_tokens", 0}}}};
}

class OpenAiFormat : public AnswerFormat {
 public:
  OpenAiFormat(OpenAiAnswerOptions options, const TextModel& model, bool chat)
      : options_(std::move(options)), model_(model), chat_(chat), offsets_(options_.choices, 0) {}

  AnswerJson Whole(const AnswerDone& done) override {
    AnswerJson json = Head(chat_ ? "chat.completion" : "text_completion");
    AnswerJson& choices = json["choices"] = AnswerJson::array();
    for (size_t i = 0; i < done.choices.size(); ++i) {
      const ChoiceDone& choice = done.choices[i];
      AnswerJson entry = {{"index", i}};
      if (chat_) {
        entry["message"] = {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
      } else {
        entry["text"] = choice.text;
      }
      int64_t offset = 0;
      entry["logprobs"] = choice.logprobs ? Logprobs(*choice.logprobs, offset) : AnswerJson();
      AddReason(choice, entry);
      choices.push_back(std::move(entry));
    }
    json["usage"] = UsageJson(done.usage);
    AddConversation(done, json);
    return json;
  }

  std::string StreamBegin(int32_t /*prompt_tokens*/) override {
    std::string events;
    if (!chat_) return events;
    for (size_t i = 0; i < options_.choices; ++i) {
      events += Chunk({{"index", i},
                       {"delta", {{"role", "assistant"}, {"content", ""}}},
                       {"logprobs", nullptr},
                       {"finish_reason", nullptr}});
    }
    return events;
  }

  std::string StreamDelta(const ChoiceDelta& delta) override {
    AnswerJson entry = {{"index", delta.choice}};
    if (chat_) {
      entry["delta"] = {{"content", delta.text}};
    } else {
      entry["text"] = delta.text;
    }
    if (delta.choice >= offsets_.size()) return "";
    entry["logprobs"] =
        delta.logprobs.empty() ? AnswerJson() : Logprobs(delta.logprobs, offsets_[delta.choice]);
    entry["finish_reason"] = nullptr;
    return Chunk(std::move(entry));
  }

  std::string StreamDone(const AnswerDone& done) override {
    std::string events;
    for (size_t i = 0; i < done.choices.size(); ++i) {
      AnswerJson entry = {{"index", i}};
      if (chat_) {
        entry["delta"] = AnswerJson::object();
      } else {
        entry["text"] = "";
      }
      entry["logprobs"] = nullptr;
      AddReason(done.choices[i], entry);
      events += Chunk(std::move(entry));
    }
    if (options_.include_usage) {
      AnswerJson json = Head(ChunkObject());
      json["choices"] = AnswerJson::array();
      json["usage"] = UsageJson(done.usage);
      AddConversation(done, json);
      events += ServerSentEvent(json);
    }
    return events + "data: [DONE]\n\n";
  }

  std::string StreamError(ErrorCode code, std::string_view message) override {
    return ServerSentEvent(ErrorJson(ApiForm::kOpenAi, MakeApiError(code, message)));
  }

 private:
  std::string_view ChunkObject() const {
    return chat_ ? "chat.completion.chunk" : "text_completion";
  }
  AnswerJson Head(std::string_view object) const {
    return {{"id", options_.head.id},
            {"object", object},
            {"created", options_.head.created},
            {"model", options_.head.model},
            {"system_fingerprint", options_.head.fingerprint}};
  }
  std::string Chunk(AnswerJson choice) const {
    AnswerJson json = Head(ChunkObject());
    json["choices"] = AnswerJson::array({std::move(choice)});
    if (options_.include_usage) json["usage"] = nullptr;
    return ServerSentEvent(json);
  }
  AnswerJson Logprobs(std::span<const parallel::TokenLogprobs> tokens, int64_t& offset) const {
    return chat_ ? ChatLogprobs(model_, tokens) : CompletionLogprobs(model_, tokens, offset);
  }
  /// `stop_reason`, as vLLM has it, tells the stop string that ended the answer.
  static void AddReason(const ChoiceDone& choice, AnswerJson& entry) {
    entry["finish_reason"] = FinishReasonName(choice.reason);
    if (choice.stop_string) entry["stop_reason"] = *choice.stop_string;
  }
  static void AddConversation(const AnswerDone& done, AnswerJson& json) {
    if (done.conversation) json["conversation"] = *done.conversation;
    if (done.durable) json["durable"] = *done.durable;
  }

  const OpenAiAnswerOptions options_;
  const TextModel& model_;
  const bool chat_;
  std::vector<int64_t> offsets_;  // [choices], characters of the text so far
};

}  // namespace

std::string StreamComment(std::string_view text) {
  std::string line = fmt::format(": {}", text);
  std::replace_if(
      line.begin(), line.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
  return line + "\n\n";
}

std::string ServerSentEvent(const AnswerJson& data, std::string_view name) {
  // JSON has no line breaks of its own, so that one line holds it.
  std::string event;
  if (!name.empty()) event += fmt::format("event: {}\n", name);
  return event + "data: " + DumpJson(data) + "\n\n";
}

std::unique_ptr<AnswerFormat> MakeChatFormat(OpenAiAnswerOptions options, const TextModel& model) {
  return std::make_unique<OpenAiFormat>(std::move(options), model, /*chat=*/true);
}
std::unique_ptr<AnswerFormat> MakeCompletionFormat(OpenAiAnswerOptions options,
                                                   const TextModel& model) {
  return std::make_unique<OpenAiFormat>(std::move(options), model, /*chat=*/false);
}

}  // namespace tandem::frontend
