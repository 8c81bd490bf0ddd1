#include "frontend/service/request_preparer.h"

#include <algorithm>
#include <limits>
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
      short_thread_([this] { Run(limits_.short_bytes); }),
      thread_([this] { Run(std::numeric_limits<int64_t>::max()); }) {}

RequestPreparer::~RequestPreparer() {
  {
    const MutexLock lock(mutex_);
    closing_ = true;
    changed_.NotifyAll();
  }
  short_thread_.join();
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
  changed_.NotifyAll();
  return absl::OkStatus();
}

bool RequestPreparer::Drop(const std::string& client, uint64_t key) {
  const MutexLock lock(mutex_);
  if (const auto working = working_.find(client);
      working != working_.end() && working->second.key == key) {
    working->second.dropped = true;
  }
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

void RequestPreparer::Run(int64_t most_bytes) {
  MutexLock lock(mutex_);
  while (!closing_) {
    std::optional<Preparation> next = TakeNext(most_bytes);
    if (!next) {
      changed_.Wait(mutex_);
      continue;
    }
    const std::string client = next->client;
    working_[client] = {.key = next->key};
    lock.Unlock();
    PrepareOne(*std::move(next));
    lock.Lock();
    working_.erase(client);
    changed_.NotifyAll();  // what else the client has may be taken
  }
}

std::optional<Preparation> RequestPreparer::TakeNext(int64_t most_bytes) {
  auto it = waiting_.end();
  for (auto at = waiting_.begin(); at != waiting_.end(); ++at) {
    const Waiting& first = at->second.requests.front();
    if (first.bytes > most_bytes || working_.contains(at->first)) continue;
    if (it == waiting_.end() || first.ends_at < it->second.requests.front().ends_at) it = at;
  }
  if (it == waiting_.end()) return std::nullopt;
  ClientQueue& queue = it->second;
  Waiting next = std::move(queue.requests.front());
  now_ = std::max(now_, next.ends_at - next.bytes);
  queue.requests.pop_front();
  queue.bytes -= next.bytes;
  bytes_ -= next.bytes;
  if (queue.requests.empty()) waiting_.erase(it);
  return std::move(next.preparation);
}

bool RequestPreparer::Dropped(const std::string& client) {
  const MutexLock lock(mutex_);
  return working_.at(client).dropped;
}

void RequestPreparer::PrepareOne(Preparation preparation) {
  const uint64_t key = preparation.key;
  const std::string client = preparation.client;
  const auto choices = static_cast<size_t>(preparation.request.samples);
  auto prepared = std::make_unique<Prepared>();
  prepared->status = [&]() -> absl::Status {
    TANDEM_ASSIGN_OR_RETURN(const parallel::EngineRequest work,
                            Prepare(std::move(preparation), model_, *prepared));
    if (Dropped(client)) return absl::CancelledError("nobody waits for it any more");
    const auto sink = [&](size_t choice) {
      return SinkTo(mailbox_, key, choice, prepared->wants_logprobs);
    };
    TANDEM_ASSIGN_OR_RETURN(prepared->engine_ids, SubmitAll(engine_, work, choices, sink));
    return absl::OkStatus();
  }();
  mailbox_->Put({.key = key, .what = std::move(prepared)});
}

}  // namespace tandem::frontend
