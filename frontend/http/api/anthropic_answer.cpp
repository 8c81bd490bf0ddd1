#include "frontend/http/api/anthropic_answer.h"

#include <utility>

#include "frontend/http/api/api_error.h"

namespace tandem::frontend {
namespace {

/// Adds why an answer ended.
void AddStopReason(const ChoiceDone& choice, AnswerJson& out) {
  const bool whole = choice.reason != parallel::FinishReason::kLength;
  out["stop_reason"] = whole ? "end_turn" : "max_tokens";
  out["stop_sequence"] = nullptr;
  if (!choice.stop_string) return;
  out["stop_reason"] = "stop_sequence";
  out["stop_sequence"] = *choice.stop_string;
}

/// Tokens that came from the cache count apart.
AnswerJson MessageUsage(const parallel::Usage& usage) {
  return {{"input_tokens", usage.prompt_tokens - usage.reused_tokens},
          {"cache_creation_input_tokens", 0},
          {"cache_read_input_tokens", usage.reused_tokens},
          {"output_tokens", usage.completion_tokens}};
}

class MessagesFormat final : public AnswerFormat {
 public:
  explicit MessagesFormat(AnswerHead head) : head_(std::move(head)) {}

  AnswerJson Whole(const AnswerDone& done) override {
    AnswerJson message = Message();
    if (done.choices.empty()) return message;
    const ChoiceDone& choice = done.choices.front();
    message["content"].push_back({{"type", "text"}, {"text", choice.text}});
    AddStopReason(choice, message);
    message["usage"] = MessageUsage(done.usage);
    return message;
  }

  std::string StreamBegin(int32_t prompt_tokens) override {
    AnswerJson message = Message();
    // message_delta tells which of them came from the cache.
    parallel::Usage usage;
    usage.prompt_tokens = prompt_tokens;
    message["usage"] = MessageUsage(usage);
    return Event("message_start", {{"message", std::move(message)}}) +
           Event("content_block_start",
                 {{"index", 0}, {"content_block", {{"type", "text"}, {"text", ""}}}}) +
           Event("ping", AnswerJson::object());
  }

  std::string StreamDelta(const ChoiceDelta& delta) override {
    if (delta.text.empty()) return "";
    return Event("content_block_delta",
                 {{"index", 0}, {"delta", {{"type", "text_delta"}, {"text", delta.text}}}});
  }

  std::string StreamDone(const AnswerDone& done) override {
    AnswerJson delta;
    AddStopReason(done.choices.empty() ? ChoiceDone{} : done.choices.front(), delta);
    return Event("content_block_stop", {{"index", 0}}) +
           Event("message_delta",
                 {{"delta", std::move(delta)}, {"usage", MessageUsage(done.usage)}}) +
           Event("message_stop", AnswerJson::object());
  }

  std::string StreamError(ErrorCode code, std::string_view message) override {
    return ServerSentEvent(ErrorJson(ApiForm::kAnthropic, MakeApiError(code, message)), "error");
  }

 private:
  AnswerJson Message() const {
    return {{"id", head_.id},
            {"type", "message"},
            {"role", "assistant"},
            {"model", head_.model},
            {"content", AnswerJson::array()},
            {"stop_reason", nullptr},
            {"stop_sequence", nullptr}};
  }
  static std::string Event(std::string_view type, AnswerJson fields) {
    AnswerJson data = {{"type", type}};
    for (auto& [name, value] : fields.items()) data[name] = std::move(value);
    return ServerSentEvent(data, type);
  }

  const AnswerHead head_;
};

}  // namespace

std::unique_ptr<AnswerFormat> MakeMessagesFormat(AnswerHead head) {
  return std::make_unique<MessagesFormat>(std::move(head));
}

}  // namespace tandem::frontend
