#include "frontend/service/preparation.h"

#include <memory>
#include <utility>

#include "core/base/counted.h"
#include "frontend/chat/generation.h"
#include "frontend/text/name_number.h"

namespace tandem::frontend {
namespace {

size_t BytesOfMessages(const std::vector<ChatMessage>& messages) {
  size_t bytes = 0;
  for (const ChatMessage& message : messages) {
    bytes += sizeof(message) + message.role.size() + message.content.size();
  }
  return bytes;
}

/// The tokens of a chat.
absl::StatusOr<std::vector<int32_t>> PrepareChat(Preparation& preparation, const TextModel& model,
                                                 Prepared& prepared) {
  ChatInput input;
  input.policy = preparation.policy;
  input.max_tokens = preparation.request.params.max_tokens;
  input.render = preparation.request.render;
  if (auto& turn = preparation.turn) {
    input.messages = turn->messages;
    input.history = &turn->history;
    input.first = turn->first;
    input.dropped_tokens = turn->dropped_tokens;
  } else {
    input.messages = std::get<std::vector<ChatMessage>>(preparation.request.input);
  }
  TANDEM_ASSIGN_OR_RETURN(prepared.chat, MakeChatPrompt(model, input));
  std::vector<int32_t> tokens(prepared.chat.tokens().begin(), prepared.chat.tokens().end());
  if (auto& turn = preparation.turn) {
    prepared.new_messages.assign(
        std::make_move_iterator(turn->messages.begin() + static_cast<ptrdiff_t>(turn->new_from)),
        std::make_move_iterator(turn->messages.end()));
  } else {
    prepared.chat.whole = {};
  }
  return tokens;
}

}  // namespace

int64_t Preparation::bytes() const {
  size_t bytes = sizeof(Preparation) + client.size();
  if (const auto* messages = std::get_if<std::vector<ChatMessage>>(&request.input)) {
    bytes += BytesOfMessages(*messages);
  } else if (const auto* text = std::get_if<std::string>(&request.input)) {
    bytes += text->size();
  } else {
    bytes += std::get<std::vector<int32_t>>(request.input).size() * sizeof(int32_t);
  }
  bytes += request.params.stop_tokens.size() * sizeof(int32_t);
  for (const std::string& stop : request.params.stop) bytes += sizeof(std::string) + stop.size();
  if (!request.render.variables.empty()) bytes += request.render.variables.dump().size();
  if (turn) {
    bytes += BytesOfMessages(turn->messages) + turn->history.tokens.size() * sizeof(int32_t);
    for (const TextSegment& segment : turn->history.segments) {
      bytes += sizeof(segment) + segment.text.size();
    }
  }
  return static_cast<int64_t>(bytes);
}

absl::StatusOr<parallel::EngineRequest> Prepare(Preparation preparation, const TextModel& model,
                                                Prepared& prepared) {
  GenerateRequest& request = preparation.request;
  std::vector<int32_t> prompt;
  if (preparation.turn || std::holds_alternative<std::vector<ChatMessage>>(request.input)) {
    TANDEM_ASSIGN_OR_RETURN(prompt, PrepareChat(preparation, model, prepared));
    if (!request.params.ignore_eos) {
      const auto stops = model.chat_stop_strings();
      request.params.stop.insert(request.params.stop.end(), stops.begin(), stops.end());
    }
  } else if (auto* text = std::get_if<std::string>(&request.input)) {
    const std::string_view whole = *text;
    TANDEM_RETURN_IF_ERROR(CheckTextFits(model, std::span(&whole, 1)));
    TANDEM_ASSIGN_OR_RETURN(prompt, model.EncodeText(*text));
    if (request.echo) prepared.echo = std::move(*text);
  } else {
    prompt = std::get<std::vector<int32_t>>(std::move(request.input));
  }
  TANDEM_ASSIGN_OR_RETURN(parallel::EngineRequest work,
                          MakeEngineRequest(model, std::move(prompt), request.params));
  if (request.echo && prepared.echo.empty()) {
    const std::unique_ptr<TextStream> stream = model.NewStream();
    for (const int32_t token : work.prompt) prepared.echo += stream->Append(token);
    prepared.echo += stream->Finish();
  }
  work.client = NumberOf(preparation.client);
  work.tenant = NumberOf(request.tenant);
  work.durable = preparation.durable;
  prepared.prompt_length = static_cast<int32_t>(work.prompt.size());
  prepared.wants_logprobs = work.logprobs.has_value();
  work.prompt_logprobs = request.echo && prepared.wants_logprobs;
  prepared.prompt_logprobs = work.prompt_logprobs;
  if (prepared.wants_logprobs) {
    const int64_t tokens =
        work.max_tokens + static_cast<int64_t>(request.echo ? work.prompt.size() : size_t{0});
    if (tokens * (1 + *work.logprobs) * request.samples > preparation.most_logprobs) {
      return InvalidArgument(
          "logprobs: {} of up to {} with {} each make more than {} in all: send a smaller "
          "max_tokens, logprobs or n",
          Counted(request.samples, "answer"), Counted(tokens, "token"),
          Counted(1 + *work.logprobs, "log-probability", "log-probabilities"),
          preparation.most_logprobs);
    }
  }
  if (work.sampling.temperature > 0) prepared.seed = work.sampling.seed;
  if (preparation.turn || work.prompt_logprobs) prepared.prompt_tokens = work.prompt;
  prepared.stop = std::move(request.params.stop);
  prepared.min_tokens = request.params.min_tokens;
  return work;
}

absl::StatusOr<std::vector<parallel::RequestId>> SubmitAll(
    parallel::Engine& engine, const parallel::EngineRequest& work, size_t choices,
    const std::function<parallel::EngineSink(size_t choice)>& sink) {
  std::vector<parallel::RequestId> ids;
  for (size_t i = 0; i < choices; ++i) {
    parallel::EngineRequest sample = work;
    sample.sampling.sample_number = static_cast<uint32_t>(i);
    const absl::StatusOr<parallel::RequestId> id = engine.Submit(std::move(sample), sink(i));
    if (!id.ok()) {
      for (const parallel::RequestId before : ids) engine.Cancel(before);
      return id.status();
    }
    ids.push_back(*id);
  }
  return ids;
}

}  // namespace tandem::frontend
