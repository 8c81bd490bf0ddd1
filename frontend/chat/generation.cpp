#include "frontend/chat/generation.h"

#include <algorithm>
#include <limits>
#include <random>
#include <utility>

#include "core/base/counted.h"
#include "core/base/mutex.h"

namespace tandem::frontend {
namespace {

/// Seeds survive a trip through JSON readers that hold numbers as doubles.
uint64_t DrawSeed() {
  std::random_device source;
  const uint64_t bits = (uint64_t{source()} << 32) | source();
  return bits & ((uint64_t{1} << 53) - 1);
}

absl::Status CheckToken(int32_t token, const TextModel& model, std::string_view where) {
  if (token >= 0 && token < model.vocab()) return absl::OkStatus();
  return InvalidArgument("{}: token {} is not in the vocabulary of {} (0 to {})", where, token,
                         model.name(), model.vocab() - 1);
}

}  // namespace

std::string_view FinishReasonName(parallel::FinishReason reason) {
  switch (reason) {
    case parallel::FinishReason::kStop:
      return "stop";
    case parallel::FinishReason::kLength:
      return "length";
    case parallel::FinishReason::kCancelled:
      return "cancelled";
    case parallel::FinishReason::kFailed:
      return "failed";
  }
  return "failed";
}

std::string_view ReuseLimitName(parallel::ReuseLimit limit) {
  switch (limit) {
    case parallel::ReuseLimit::kNone:
      return "none";
    case parallel::ReuseLimit::kNotAsked:
      return "not_asked";
    case parallel::ReuseLimit::kNothing:
      return "nothing_known";
    case parallel::ReuseLimit::kDiffers:
      return "differs";
    case parallel::ReuseLimit::kEvicted:
      return "evicted";
    case parallel::ReuseLimit::kLate:
      return "late";
    case parallel::ReuseLimit::kDamaged:
      return "damaged";
    case parallel::ReuseLimit::kNoState:
      return "no_state";
    case parallel::ReuseLimit::kOtherAttention:
      return "other_attention";
  }
  return "none";
}

absl::Status CheckMinTokens(const GenerationParams& params, int64_t context, int64_t prompt) {
  if (params.max_tokens && params.min_tokens > *params.max_tokens) {
    return InvalidArgument("min_tokens: {} is more than max_tokens, {}", params.min_tokens,
                           *params.max_tokens);
  }
  if (params.min_tokens <= context - prompt) return absl::OkStatus();
  return InvalidArgument(
      "min_tokens: {} is more than the context has for an answer: {} of its {}{}",
      params.min_tokens, context - prompt, Counted(context, "token"),
      params.max_tokens ? fmt::format(" (max_tokens is {})", *params.max_tokens) : "");
}

absl::StatusOr<parallel::EngineRequest> MakeEngineRequest(const TextModel& model,
                                                          std::vector<int32_t> prompt,
                                                          const GenerationParams& params) {
  if (prompt.empty()) {
    return InvalidArgument(
        "the prompt is empty, and {} has no start token: give some text, or at least one token",
        model.name());
  }
  for (const int32_t token : prompt) TANDEM_RETURN_IF_ERROR(CheckToken(token, model, "prompt"));
  for (const auto& [token, bias] : params.sampling.logit_bias) {
    TANDEM_RETURN_IF_ERROR(CheckToken(token, model, "logit_bias"));
  }
  for (const int32_t token : params.stop_tokens) {
    TANDEM_RETURN_IF_ERROR(CheckToken(token, model, "stop_token_ids"));
  }
  const auto prompt_size = static_cast<int64_t>(prompt.size());
  const int64_t rest = int64_t{model.context()} - prompt_size;
  if (rest < 0) {
    return OutOfRange(
        "the prompt has {}, but the context of {} holds {}: shorten it, begin anew, or let a chat "
        "be shortened with context_policy",
        Counted(prompt_size, "token"), model.name(), model.context());
  }
  TANDEM_RETURN_IF_ERROR(CheckMinTokens(params, model.context(), prompt_size));
  parallel::EngineRequest request;
  request.prompt = std::move(prompt);
  request.max_tokens = static_cast<int32_t>(std::clamp<int64_t>(
      params.max_tokens.value_or(std::numeric_limits<int64_t>::max()), 0, rest));
  request.sampling = params.sampling;
  request.sampling.seed = 0;
  if (params.seed) {
    request.sampling.seed = *params.seed;
  } else if (request.sampling.temperature > 0) {
    request.sampling.seed = DrawSeed();
  }
  request.sampling.min_tokens = params.min_tokens;
  request.logprobs = params.logprobs;
  request.priority = params.priority;
  request.reuse = params.reuse;
  request.speculate = params.speculate;
  request.stop_tokens = params.stop_tokens;
  if (!params.ignore_eos) {
    request.stop_tokens.insert(request.stop_tokens.end(), model.end_tokens().begin(),
                               model.end_tokens().end());
  }
  request.sampling.end_tokens =
      params.min_tokens > 0 ? request.stop_tokens : std::vector<int32_t>();
  return request;
}

AnswerWriter::AnswerWriter(std::unique_ptr<TextStream> stream, std::vector<std::string> stop,
                           int32_t min_tokens)
    : stream_(std::move(stream)), stop_(std::move(stop)), min_tokens_(min_tokens) {}

std::string AnswerWriter::Append(std::span<const int32_t> tokens) {
  std::string delta;
  for (const int32_t token : tokens) {
    if (stop_.matched()) break;
    taken_.push_back(token);
    const std::string piece = stream_->Append(token);
    stream_bytes_ += piece.size();
    if (stream_->whole()) boundaries_.push_back({taken_.size(), stream_bytes_});
    delta += Push(piece);
  }
  text_ += delta;
  while (boundaries_.size() > 1 && boundaries_[1].bytes <= text_.size()) boundaries_.pop_front();
  return delta;
}

std::string AnswerWriter::Finish() {
  if (stop_.matched()) return "";
  std::string delta = Push(stream_->Finish());
  if (!stop_.matched()) delta += stop_.Finish();
  text_ += delta;
  while (boundaries_.size() > 1 && boundaries_[1].bytes <= text_.size()) boundaries_.pop_front();
  return delta;
}

AnswerWriter::Certain AnswerWriter::certain() const {
  const Boundary& last = boundaries_.front();
  return {.tokens = std::span(taken_).first(last.tokens), .text_bytes = last.bytes};
}

Answer AnswerWriter::Result(const parallel::Finish& finish) const {
  Answer answer;
  answer.reason = stop_.matched() ? parallel::FinishReason::kStop : finish.reason;
  answer.text = text_;
  answer.usage = finish.usage;
  answer.usage.completion_tokens = tokens();
  answer.stop_string = stop_.match();
  return answer;
}

absl::StatusOr<Answer> Generate(parallel::Engine& engine, const TextModel& model,
                                std::vector<int32_t> prompt, const GenerationParams& params,
                                const GenerateCallbacks& callbacks) {
  TANDEM_ASSIGN_OR_RETURN(parallel::EngineRequest request,
                          MakeEngineRequest(model, std::move(prompt), params));
  request.want_prompt_logits = static_cast<bool>(callbacks.on_logits);
  const bool sampled = request.sampling.temperature > 0;
  const uint64_t seed = request.sampling.seed;

  // The sink only hands over, so that text is made and the engine cancelled from this thread. Both
  // sides own the box: the sink may outlive this call where the engine dies.
  struct Box {
    Mutex mutex;
    CondVar changed;
    std::vector<int32_t> tokens ABSL_GUARDED_BY(mutex);
    std::optional<parallel::Finish> finish ABSL_GUARDED_BY(mutex);
  };
  auto box = std::make_shared<Box>();
  parallel::EngineSink sink;
  sink.on_tokens = [box](std::span<const int32_t> tokens) {
    const MutexLock lock(box->mutex);
    box->tokens.insert(box->tokens.end(), tokens.begin(), tokens.end());
    box->changed.NotifyOne();
  };
  sink.on_logits = callbacks.on_logits;
  if (callbacks.on_logprobs) {
    sink.on_logprobs = [give = callbacks.on_logprobs](
                           int64_t, std::span<const parallel::TokenLogprobs> logprobs) {
      give(logprobs);
    };
  }
  sink.on_finish = [box](const parallel::Finish& finish) {
    const MutexLock lock(box->mutex);
    box->finish = finish;
    box->changed.NotifyOne();
  };
  TANDEM_ASSIGN_OR_RETURN(const parallel::RequestId id,
                          engine.Submit(std::move(request), std::move(sink)));

  AnswerWriter writer(model.NewStream(), params.stop, params.min_tokens);
  std::vector<int32_t> taken;
  std::optional<parallel::Finish> finish;
  bool cancelled = false;
  while (!finish) {
    std::vector<int32_t> tokens;
    {
      const MutexLock lock(box->mutex);
      while (box->tokens.empty() && !box->finish) box->changed.Wait(box->mutex);
      tokens.swap(box->tokens);
      finish = box->finish;
    }
    const int32_t before = writer.tokens();
    const std::string delta = writer.Append(tokens);
    taken.insert(taken.end(), tokens.begin(), tokens.begin() + (writer.tokens() - before));
    bool ends = writer.stopped();
    if (!delta.empty() && callbacks.on_text) ends = !callbacks.on_text(delta) || ends;
    if (ends && !std::exchange(cancelled, true)) engine.Cancel(id);
  }
  const std::string rest = writer.Finish();
  if (!rest.empty() && callbacks.on_text) callbacks.on_text(rest);
  if (finish->reason == parallel::FinishReason::kFailed && !writer.stopped()) {
    return finish->status.ok() ? Internal("the engine failed the request without a reason")
                               : finish->status;
  }
  Answer answer = writer.Result(*finish);
  answer.tokens = std::move(taken);
  if (sampled) answer.seed = seed;
  return answer;
}

}  // namespace tandem::frontend
