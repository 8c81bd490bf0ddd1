#include "frontend/service/request_preparer.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/base/retry_after.h"

namespace tandem::frontend {
namespace {

constexpr double kComeBackSeconds = 1;

/// Hands what the engine makes for one answer over to the service's thread.
parallel::EngineSink SinkTo(const std::shared_ptr<Mailbox>& mailbox, uint64_t key, size_t choice,
                            bool wants_logprobs) {
  parallel::EngineSink sink;
  sink.on_tokens = [mailbox, key, choice](std::span<const int32_t> tokens) {
    mailbox->Put(
        {.key = key, .choice = choice, .what = std::vector<int32_t>(tokens.begin(), tokens.end())});
  };
  if (wants_logprobs) {
    sink.on_logprobs = [mailbox, key, choice](int64_t,
                                              std::span<const parallel::TokenLogprobs> logprobs) {
      mailbox->Put(
          {.key = key,
           .choice = choice,
           .what = std::vector<parallel::TokenLogprobs>(logprobs.begin(), logprobs.end())});
    };
  }
  sink.on_notice = [mailbox, key, choice](const parallel::EngineNotice& notice) {
    mailbox->Put({.key = key, .choice = choice, .what = notice});
  };
  sink.on_finish = [mailbox, key, choice](const parallel::Finish& finish) {
    mailbox->Put({.key = key, .choice = choice, .what = finish});
  };
  return sink;
}

}  // namespace

RequestPreparer::RequestPreparer(parallel::Engine& engine, const TextModel& model,
                                 std::shared_ptr<Mailbox> mailbox,
                                 const RequestPreparerLimits& limits)
    : engine_(engine),
      model_(model),
      mailbox_(std::move(mailbox)),
      limits_(limits),
      thread_([this] { Run(); }) {}

RequestPreparer::~RequestPreparer() {
  {
    const MutexLock lock(mutex_);
    closing_ = true;
    changed_.NotifyOne();
  }
  thread_.join();
}

absl::Status RequestPreparer::Add(Preparation preparation) {
  const int64_t bytes = preparation.bytes();
  const MutexLock lock(mutex_);
  const auto found = waiting_.find(preparation.client);
  const bool first = found == waiting_.end();
  const int64_t of_client = first ? 0 : found->second.bytes;
  const bool fits =
      first ? bytes_ < 2 * limits_.total_bytes
            : of_client + bytes <= limits_.client_bytes && bytes_ + bytes <= limits_.total_bytes;
  if (!fits) {
    return WithRetryAfter(
        ResourceExhausted("{} bytes of requests wait to be prepared ({} of this client), at most "
                          "{} ({}) may: wait for some to be accepted, then send again",
                          bytes_, of_client, limits_.total_bytes, limits_.client_bytes),
        kComeBackSeconds);
  }
  ClientQueue& queue = waiting_[preparation.client];
  const int64_t begins_at = queue.requests.empty() ? now_ : queue.requests.back().ends_at;
  queue.requests.push_back({.preparation = std::move(preparation),
                            .bytes = bytes,
                            .ends_at = std::max(now_, begins_at) + bytes});
  queue.bytes += bytes;
  bytes_ += bytes;
  changed_.NotifyOne();
  return absl::OkStatus();
}

bool RequestPreparer::Drop(const std::string& client, uint64_t key) {
  const MutexLock lock(mutex_);
  current_dropped_ = current_dropped_ || current_ == key;
  const auto found = waiting_.find(client);
  if (found == waiting_.end()) return false;
  ClientQueue& queue = found->second;
  const auto at =
      std::find_if(queue.requests.begin(), queue.requests.end(),
                   [&](const Waiting& waiting) { return waiting.preparation.key == key; });
  if (at == queue.requests.end()) return false;
  queue.bytes -= at->bytes;
  bytes_ -= at->bytes;
  queue.requests.erase(at);
  if (queue.requests.empty()) waiting_.erase(found);
  return true;
}

void RequestPreparer::Run() {
  for (;;) {
    Preparation next;
    {
      const MutexLock lock(mutex_);
      while (waiting_.empty() && !closing_) changed_.Wait(mutex_);
      if (closing_) return;
      next = TakeNext();
      current_ = next.key;
      current_dropped_ = false;
    }
    PrepareOne(std::move(next));
  }
}

Preparation RequestPreparer::TakeNext() {
  const auto it =
      std::min_element(waiting_.begin(), waiting_.end(), [](const auto& one, const auto& other) {
        return one.second.requests.front().ends_at < other.second.requests.front().ends_at;
      });
  ClientQueue& queue = it->second;
  Waiting next = std::move(queue.requests.front());
  now_ = std::max(now_, next.ends_at - next.bytes);
  queue.requests.pop_front();
  queue.bytes -= next.bytes;
  bytes_ -= next.bytes;
  if (queue.requests.empty()) waiting_.erase(it);
  return std::move(next.preparation);
}

bool RequestPreparer::dropped() {
  const MutexLock lock(mutex_);
  return current_dropped_;
}

void RequestPreparer::PrepareOne(Preparation preparation) {
  const uint64_t key = preparation.key;
  const auto choices = static_cast<size_t>(preparation.request.samples);
  auto prepared = std::make_unique<Prepared>();
  prepared->status = [&]() -> absl::Status {
    TANDEM_ASSIGN_OR_RETURN(const parallel::EngineRequest work,
                            Prepare(std::move(preparation), model_, *prepared));
    if (dropped()) return absl::CancelledError("nobody waits for it any more");
    const auto sink = [&](size_t choice) {
      return SinkTo(mailbox_, key, choice, prepared->wants_logprobs);
    };
    TANDEM_ASSIGN_OR_RETURN(prepared->engine_ids, SubmitAll(engine_, work, choices, sink));
    return absl::OkStatus();
  }();
  mailbox_->Put({.key = key, .what = std::move(prepared)});
}

}  // namespace tandem::frontend
