#include "tests/support/fake_engine.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace tandem::testing {

using parallel::FinishReason;
using parallel::RequestId;

FakeEngine::FakeEngine(Script script, std::chrono::microseconds step)
    : script_(std::move(script)), step_(step), thread_([this] { Loop(); }) {}

FakeEngine::~FakeEngine() {
  {
    const std::lock_guard lock(mutex_);
    quit_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

absl::StatusOr<RequestId> FakeEngine::Submit(parallel::EngineRequest request,
                                             parallel::EngineSink sink) {
  const std::lock_guard lock(mutex_);
  if (!health_.ok()) return health_;
  if (running_.size() >= capacity_) return ResourceExhausted("the fake engine is full");
  requests_.push_back(request);
  Running running{.request = std::move(request), .sink = std::move(sink)};
  running.script = script_(running.request.prompt);
  running.read = running.request.prompt;
  const std::vector<int32_t>& answered = running.request.answered;
  running.read.insert(running.read.end(), answered.begin(), answered.end());
  running.made = static_cast<int32_t>(answered.size());
  for (const auto& [tenant, tokens] : known_) {
    if (tenant != running.request.tenant || !running.request.reuse) continue;
    const auto differs =
        std::mismatch(tokens.begin(), tokens.end(), running.read.begin(), running.read.end() - 1);
    running.reused = std::max(running.reused, static_cast<int32_t>(differs.first - tokens.begin()));
  }
  running_.emplace(next_id_, std::move(running));
  changed_.notify_all();
  return next_id_++;
}

void FakeEngine::Cancel(RequestId id) {
  const std::lock_guard lock(mutex_);
  const auto found = running_.find(id);
  if (found != running_.end()) found->second.cancelled = true;
  changed_.notify_all();
}

absl::StatusOr<parallel::EngineStatus> FakeEngine::Status() {
  const std::lock_guard lock(mutex_);
  parallel::EngineStatus status;
  status.ranks.push_back({.rank = 0,
                          .host = "fakehost",
                          .weight_bytes = 42,
                          .weights_mapped = true,
                          .device = "none",
                          .reduce_nanoseconds = 1'500'000'000});
  status.running = static_cast<int32_t>(running_.size());
  status.steps = steps_;
  status.tokens_generated = generated_;
  return status;
}

parallel::TokenLogprobs FakeEngine::LogprobsOf(int32_t token, int32_t top) {
  parallel::TokenLogprobs logprobs{.chosen = {token, -static_cast<float>(token) / 100}, .top = {}};
  for (int32_t i = 0; i < top; ++i) {
    logprobs.top.push_back({i, -static_cast<float>(i) / 100});
  }
  return logprobs;
}

absl::Status FakeEngine::Health() {
  const std::lock_guard lock(mutex_);
  return health_;
}

void FakeEngine::Hold(bool held) {
  const std::lock_guard lock(mutex_);
  held_ = held;
  changed_.notify_all();
}

void FakeEngine::Die(absl::Status status) {
  const std::lock_guard lock(mutex_);
  health_ = std::move(status);
  changed_.notify_all();
}

void FakeEngine::Scale(int ranks, const ScaleDone& done) {
  std::optional<parallel::EngineScale> scale;
  {
    const std::lock_guard lock(mutex_);
    scale = scale_;
  }
  if (!scale) return Engine::Scale(ranks, done);
  done(*scale);
}

void FakeEngine::set_scale(const parallel::EngineScale& scale) {
  const std::lock_guard lock(mutex_);
  scale_ = scale;
}

void FakeEngine::Tell(const parallel::EngineNotice& notice) {
  const std::lock_guard lock(mutex_);
  for (const auto& [id, running] : running_) {
    if (running.sink.on_notice) running.sink.on_notice(notice);
  }
}

void FakeEngine::set_capacity(size_t capacity) {
  const std::lock_guard lock(mutex_);
  capacity_ = capacity;
}

int FakeEngine::submitted() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int>(requests_.size());
}

int FakeEngine::running() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int>(running_.size());
}

std::vector<parallel::EngineRequest> FakeEngine::requests() const {
  const std::lock_guard lock(mutex_);
  return requests_;
}

void FakeEngine::Loop() {
  std::unique_lock lock(mutex_);
  while (!quit_) {
    Step(lock);
    if (running_.empty() || held_) {
      changed_.wait_for(lock, std::chrono::milliseconds(20));
    } else if (step_.count() > 0) {
      lock.unlock();
      std::this_thread::sleep_for(step_);
      lock.lock();
    }
  }
}

void FakeEngine::Step(std::unique_lock<std::mutex>& lock) {
  ++steps_;
  std::vector<RequestId> ids;
  for (const auto& [id, running] : running_) ids.push_back(id);
  for (const RequestId id : ids) {
    Running& running = running_.at(id);  // only this thread erases
    if (!health_.ok()) {
      End(id, FinishReason::kFailed, health_, lock);
    } else if (running.cancelled) {
      End(id, FinishReason::kCancelled, absl::OkStatus(), lock);
    } else if (held_) {
      continue;
    } else if (!std::exchange(running.admitted, true)) {
      const auto on_admitted = running.sink.on_admitted;
      lock.unlock();
      if (on_admitted) on_admitted();
      lock.lock();
    } else if (running.request.prompt_logprobs && !running.prompt_told) {
      running.prompt_told = true;
      std::vector<parallel::TokenLogprobs> logprobs;
      const int32_t first = running.request.first_prompt_logprob;
      for (auto i = static_cast<size_t>(first); i < running.request.prompt.size(); ++i) {
        logprobs.push_back(
            LogprobsOf(running.request.prompt[i], running.request.logprobs.value_or(0)));
      }
      const auto on_logprobs = running.sink.on_logprobs;
      lock.unlock();
      on_logprobs(first, logprobs);
      lock.lock();
    } else if (running.made >= running.request.max_tokens || running.script.empty()) {
      End(id, FinishReason::kLength, absl::OkStatus(), lock);
    } else {
      const int32_t token =
          running.script[static_cast<size_t>(running.made) % running.script.size()];
      const auto& stops = running.request.stop_tokens;
      if (std::find(stops.begin(), stops.end(), token) != stops.end()) {
        End(id, FinishReason::kStop, absl::OkStatus(), lock);
        continue;
      }
      ++running.made;
      ++generated_;
      running.read.push_back(token);
      const auto position = static_cast<int64_t>(running.read.size()) - 1;
      const auto on_tokens = running.sink.on_tokens;
      const auto on_logprobs = running.sink.on_logprobs;
      const std::optional<int32_t> top = running.request.logprobs;
      lock.unlock();
      if (top) {
        const parallel::TokenLogprobs logprobs = LogprobsOf(token, *top);
        on_logprobs(position, std::span(&logprobs, 1));
      }
      on_tokens(std::span(&token, 1));
      lock.lock();
    }
  }
}

void FakeEngine::End(RequestId id, FinishReason reason, const absl::Status& status,
                     std::unique_lock<std::mutex>& lock) {
  const auto found = running_.find(id);
  parallel::Finish finish{.reason = reason,
                          .status = status,
                          .engine_died = reason == FinishReason::kFailed,
                          .usage = {}};
  finish.usage.prompt_tokens = static_cast<int32_t>(found->second.request.prompt.size());
  finish.usage.completion_tokens = found->second.made;
  finish.usage.reused_tokens = found->second.reused;
  finish.usage.reused_from.device = static_cast<uint64_t>(found->second.reused);
  finish.usage.computed_tokens =
      finish.usage.prompt_tokens - found->second.reused + std::max(0, found->second.made - 1);
  finish.usage.reuse_limit = found->second.request.reuse ? parallel::ReuseLimit::kNothing
                                                         : parallel::ReuseLimit::kNotAsked;
  if (found->second.reused > 0) finish.usage.reuse_limit = parallel::ReuseLimit::kDiffers;
  known_.emplace_back(found->second.request.tenant, std::move(found->second.read));
  const auto on_finish = found->second.sink.on_finish;
  running_.erase(found);
  lock.unlock();
  on_finish(finish);
  lock.lock();
}

}  // namespace tandem::testing
