#include "parallel/coordinator/open_requests.h"

#include <utility>

namespace tandem::parallel {

void OpenRequests::Add(RequestId id, EngineSink sink, const Usage& usage) {
  auto request = std::make_shared<Request>(Request{std::move(sink), usage});
  const MutexLock lock(mutex_);
  requests_.emplace(id, std::move(request));
}

size_t OpenRequests::size() const {
  const MutexLock lock(mutex_);
  return requests_.size();
}

std::shared_ptr<OpenRequests::Request> OpenRequests::Find(RequestId id) const {
  const MutexLock lock(mutex_);
  const auto found = requests_.find(id);
  return found == requests_.end() ? nullptr : found->second;
}

void OpenRequests::Admitted(RequestId id, const ReusedFrom& reused, ReuseLimit limit) {
  const MutexLock delivery(delivery_);
  const auto request = Find(id);
  if (!request || request->admitted != Clock::time_point{}) return;
  request->admitted = Clock::now();
  // An answer that goes on finds pages of its own beginning as well.
  const ReusedFrom of_prompt = reused.OfFirst(static_cast<uint64_t>(request->usage.prompt_tokens));
  request->usage.reused_tokens = static_cast<int32_t>(of_prompt.total());
  request->usage.reused_from = of_prompt;
  request->usage.reuse_limit = limit;
  if (request->sink.on_admitted) request->sink.on_admitted();
}

void OpenRequests::Preempted(RequestId id) {
  const MutexLock delivery(delivery_);
  if (const auto request = Find(id)) ++request->usage.preemptions;
}

void OpenRequests::Computed(RequestId id, int32_t tokens) {
  const MutexLock delivery(delivery_);
  if (const auto request = Find(id)) request->usage.computed_tokens += tokens;
}

void OpenRequests::Drafted(RequestId id, int32_t drafted, int32_t accepted) {
  if (drafted == 0) return;
  const MutexLock delivery(delivery_);
  const auto request = Find(id);
  if (!request) return;
  request->usage.drafted_tokens += drafted;
  request->usage.accepted_tokens += accepted;
}

void OpenRequests::Logits(RequestId id, int64_t position, std::span<const float> logits) {
  const MutexLock delivery(delivery_);
  const auto request = Find(id);
  if (request && request->sink.on_logits) request->sink.on_logits(position, logits);
}

void OpenRequests::Logprobs(RequestId id, int64_t position,
                            std::span<const TokenLogprobs> logprobs) {
  const MutexLock delivery(delivery_);
  const auto request = Find(id);
  if (request && request->sink.on_logprobs) request->sink.on_logprobs(position, logprobs);
}

void OpenRequests::Token(RequestId id, int32_t token) {
  const MutexLock delivery(delivery_);
  const auto request = Find(id);
  if (!request) return;
  ++request->usage.completion_tokens;
  if (request->first_token == Clock::time_point{}) request->first_token = Clock::now();
  if (request->sink.on_tokens) request->sink.on_tokens(std::span(&token, 1));
}

void OpenRequests::CallFinish(Request& request, parallel::Finish finish) {
  const auto seconds = [](Clock::time_point from, Clock::time_point to) {
    return std::chrono::duration<double>(to - from).count();
  };
  const Clock::time_point now = Clock::now();
  const Clock::time_point unset{};
  const auto admitted = request.admitted == unset ? now : request.admitted;
  const auto first = request.first_token == unset ? now : request.first_token;
  request.usage.queue_seconds = seconds(request.submitted, admitted);
  request.usage.prefill_seconds = seconds(admitted, first);
  request.usage.decode_seconds = seconds(first, now);
  finish.usage = request.usage;
  if (request.sink.on_finish) request.sink.on_finish(finish);
}

void OpenRequests::Finish(RequestId id, FinishReason reason, const absl::Status& status,
                          bool saved) {
  const MutexLock delivery(delivery_);
  const auto request = Find(id);
  if (!request) return;
  {
    const MutexLock lock(mutex_);
    requests_.erase(id);
  }
  CallFinish(*request, {.reason = reason, .status = status, .saved = saved});
}

void OpenRequests::FailAll(const absl::Status& engine_died) {
  const MutexLock delivery(delivery_);
  std::unordered_map<RequestId, std::shared_ptr<Request>> ended;
  {
    const MutexLock lock(mutex_);
    ended.swap(requests_);
  }
  for (const auto& [id, request] : ended) {
    CallFinish(*request,
               {.reason = FinishReason::kFailed, .status = engine_died, .engine_died = true});
  }
}

}  // namespace tandem::parallel
