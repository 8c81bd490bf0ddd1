#include "frontend/http/api/responses_answer.h"

#include <utility>

#include "frontend/http/api/answer_ids.h"
#include "frontend/http/api/api_error.h"

namespace tandem::frontend {
namespace {

constexpr std::string_view kResponseIdPrefix = "resp_";

AnswerJson ResponseUsage(const parallel::Usage& usage) {
  return {{"input_tokens", usage.prompt_tokens},
          {"input_tokens_details", {{"cached_tokens", usage.reused_tokens}}},
          {"output_tokens", usage.completion_tokens},
          {"output_tokens_details", {{"reasoning_tokens", 0}}},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens}};
}

AnswerJson TextPart(std::string_view text) {
  return {{"type", "output_text"},
          {"text", text},
          {"annotations", AnswerJson::array()},
          {"logprobs", AnswerJson::array()}};
}

AnswerJson OutputItem(const std::string& id, std::string_view status, const AnswerJson& content) {
  return {{"id", id},
          {"type", "message"},
          {"status", status},
          {"role", "assistant"},
          {"content", content}};
}

/// What every response has, before anything is known of its answer.
AnswerJson EmptyResponse(const AnswerHead& head, std::string_view status) {
  return {{"id", head.id},
          {"object", "response"},
          {"created_at", head.created},
          {"status", status},
          {"background", false},
          {"error", nullptr},
          {"incomplete_details", nullptr},
          {"instructions", nullptr},
          {"max_output_tokens", nullptr},
          {"metadata", AnswerJson::object()},
          {"model", head.model},
          {"output", AnswerJson::array()},
          {"parallel_tool_calls", true},
          {"previous_response_id", nullptr},
          {"reasoning", {{"effort", nullptr}, {"summary", nullptr}}},
          {"store", true},
          {"temperature", 1.0},
          {"text", {{"format", {{"type", "text"}}}}},
          {"tool_choice", "auto"},
          {"tools", AnswerJson::array()},
          {"top_p", 1.0},
          {"truncation", "disabled"},
          {"usage", nullptr},
          {"user", nullptr}};
}

std::string_view StatusOf(bool cut) { return cut ? "incomplete" : "completed"; }
AnswerJson CutDetails() { return {{"reason", "max_output_tokens"}}; }

std::string ItemId(const std::string& response) {
  return "msg_" + response.substr(std::min(kResponseIdPrefix.size(), response.size()));
}

class ResponsesFormat final : public AnswerFormat {
 public:
  ResponsesFormat(AnswerHead head, AnswerJson told)
      : head_(std::move(head)), told_(std::move(told)), item_(ItemId(head_.id)) {}

  AnswerJson Whole(const AnswerDone& done) override {
    const ChoiceDone choice = done.choices.empty() ? ChoiceDone{} : done.choices.front();
    const bool cut = choice.reason == parallel::FinishReason::kLength;
    const std::string_view status = StatusOf(cut);
    AnswerJson response = Response(status);
    response["output"].push_back(
        OutputItem(item_, status, AnswerJson::array({TextPart(choice.text)})));
    if (cut) response["incomplete_details"] = CutDetails();
    response["usage"] = ResponseUsage(done.usage);
    if (done.durable) response["durable"] = *done.durable;
    return response;
  }

  std::string StreamBegin(int32_t /*prompt_tokens*/) override {
    // One after the other, since events are counted.
    std::string events = Event("response.created", {{"response", Response("in_progress")}});
    events += Event("response.in_progress", {{"response", Response("in_progress")}});
    events += Event(
        "response.output_item.added",
        {{"output_index", 0}, {"item", OutputItem(item_, "in_progress", AnswerJson::array())}});
    return events += Event("response.content_part.added", InPart({{"part", TextPart("")}}));
  }

  std::string StreamDelta(const ChoiceDelta& delta) override {
    if (delta.text.empty()) return "";
    return Event("response.output_text.delta",
                 InPart({{"delta", delta.text}, {"logprobs", AnswerJson::array()}}));
  }

  std::string StreamDone(const AnswerDone& done) override {
    const AnswerJson response = Whole(done);
    const AnswerJson& item = response["output"][0];
    const AnswerJson& part = item["content"][0];
    const bool complete = response["status"] == "completed";
    std::string events = Event("response.output_text.done",
                               InPart({{"text", part["text"]}, {"logprobs", AnswerJson::array()}}));
    events += Event("response.content_part.done", InPart({{"part", part}}));
    events += Event("response.output_item.done", {{"output_index", 0}, {"item", item}});
    return events +=
           Event(complete ? "response.completed" : "response.incomplete", {{"response", response}});
  }

  std::string StreamError(ErrorCode code, std::string_view message) override {
    const ApiError error = MakeApiError(code, message);
    AnswerJson response = Response("failed");
    response["error"] = {{"code", error.code}, {"message", error.message}};
    return Event("error", {{"code", error.code}, {"message", error.message}, {"param", nullptr}}) +
           Event("response.failed", {{"response", std::move(response)}});
  }

 private:
  AnswerJson Response(std::string_view status) const {
    AnswerJson response = EmptyResponse(head_, status);
    for (const auto& [name, value] : told_.items()) response[name] = value;
    return response;
  }
  AnswerJson InPart(AnswerJson fields) const {
    AnswerJson all = {{"item_id", item_}, {"output_index", 0}, {"content_index", 0}};
    for (auto& [name, value] : fields.items()) all[name] = std::move(value);
    return all;
  }
  std::string Event(std::string_view type, AnswerJson fields) {
    AnswerJson data = {{"type", type}, {"sequence_number", sequence_++}};
    for (auto& [name, value] : fields.items()) data[name] = std::move(value);
    return ServerSentEvent(data, type);
  }

  const AnswerHead head_;
  const AnswerJson told_;
  const std::string item_;
  int64_t sequence_ = 0;
};

}  // namespace

std::unique_ptr<AnswerFormat> MakeResponsesFormat(AnswerHead head, AnswerJson told) {
  return std::make_unique<ResponsesFormat>(std::move(head), std::move(told));
}

std::vector<ChatMessage> JoinResponseMessages(std::vector<ChatMessage> before,
                                              std::vector<ChatMessage> more,
                                              bool has_instructions) {
  std::vector<ChatMessage> all;
  auto next = more.begin();
  if (has_instructions && next != more.end()) {
    all.push_back(std::move(*next));
    ++next;
    if (!before.empty() && before.front().role == "system") before.erase(before.begin());
  }
  for (ChatMessage& message : before) all.push_back(std::move(message));
  for (; next != more.end(); ++next) all.push_back(std::move(*next));
  return all;
}

AnswerJson StoredResponseJson(const std::string& id, const std::string& model,
                              const Conversation& conversation) {
  const std::vector<ChatMessage>& messages = conversation.messages;
  const auto& outcome = conversation.outcome;
  const bool cut = outcome && outcome->reason == parallel::FinishReason::kLength;
  const std::string_view status = StatusOf(cut);
  AnswerJson response = EmptyResponse(
      {.id = id, .created = SecondsOfId(id, kResponseIdPrefix), .model = model}, status);
  if (messages.front().role == "system") response["instructions"] = messages.front().content;
  if (messages.back().role == "assistant") {
    response["output"].push_back(
        OutputItem(ItemId(id), status, AnswerJson::array({TextPart(messages.back().content)})));
  }
  if (cut) response["incomplete_details"] = CutDetails();
  if (outcome) response["usage"] = ResponseUsage(outcome->usage);
  return response;
}

}  // namespace tandem::frontend
