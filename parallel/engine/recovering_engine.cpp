#include "parallel/engine/recovering_engine.h"

#include <algorithm>
#include <optional>
#include <thread>
#include <utility>

#include "core/base/counted.h"
#include "parallel/engine/prompt_readings.h"

namespace tandem::parallel {
namespace {

// A life that refuses requests because it dies is known to be dead within this time.
constexpr std::chrono::milliseconds kDeathKnown{1500};
constexpr std::chrono::milliseconds kLookInterval{10};
// What requests get while others are read is read in the next round, which has less to do.
constexpr int kMostReadings = 4;
constexpr std::chrono::milliseconds kShortReading{300};

/// Whether it is the request that is wrong, or too much, and not the engine.
bool BlamesRequest(const absl::Status& refused) {
  return absl::IsInvalidArgument(refused) || absl::IsOutOfRange(refused) ||
         absl::IsResourceExhausted(refused);
}

/// Whether the engine dies; one that has refused a request for its own sake gets time to say so.
bool Dies(Engine& engine) {
  for (auto waited = kLookInterval * 0; waited < kDeathKnown; waited += kLookInterval) {
    if (!engine.Health().ok()) return true;
    std::this_thread::sleep_for(kLookInterval);
  }
  return false;
}

/// What grows as long as a life lasts, of both; the rest of a status is how it is now.
template <typename Visit>
void ForEachCount(EngineStatus& to, const EngineStatus& from, const Visit& visit) {
  visit(to.prompt_tokens, from.prompt_tokens);
  visit(to.reused_tokens, from.reused_tokens);
  visit(to.reused_from, from.reused_from);
  visit(to.records, from.records);
  visit(to.late_fetches, from.late_fetches);
  visit(to.not_durable, from.not_durable);
  visit(to.preemptions, from.preemptions);
  visit(to.drafted_tokens, from.drafted_tokens);
  visit(to.accepted_tokens, from.accepted_tokens);
  visit(to.steps, from.steps);
  visit(to.tokens_generated, from.tokens_generated);
  visit(to.tokens_prefilled, from.tokens_prefilled);
}

void AddCounts(const EngineStatus& more, EngineStatus& sum) {
  ForEachCount(sum, more, [](auto& to, const auto& from) { to += from; });
}

}  // namespace

/// A request that has not finished. Its lock is held while its sink is called; the engine's own is
/// taken after it.
struct RecoveringEngine::Request {
  Request(RequestId number, EngineRequest what, EngineSink whose)
      : id(number),
        most_tokens(std::ssize(what.prompt) + what.max_tokens),
        request(std::move(what)),
        sink(std::move(whose)) {}

  const RequestId id;
  const int64_t most_tokens;  // prompt and answer together
  Mutex mutex;
  EngineRequest request ABSL_GUARDED_BY(mutex);  // `answered` and what it wants of the prompt: now
  const EngineSink sink;
  // The life that has it, or is asked to take it. Weak: the last owner of a life must not be what
  // that life itself calls.
  std::weak_ptr<Engine> life ABSL_GUARDED_BY(mutex);
  uint64_t epoch ABSL_GUARDED_BY(mutex) = 0;  // of that life
  std::optional<RequestId> id_there ABSL_GUARDED_BY(mutex);
  bool waits ABSL_GUARDED_BY(mutex) = true;  // for the next life
  bool cancelled ABSL_GUARDED_BY(mutex) = false;
  bool finished ABSL_GUARDED_BY(mutex) = false;
  int64_t logits_until ABSL_GUARDED_BY(mutex) = 0;    // positions whose logits the sink has
  int64_t logprobs_until ABSL_GUARDED_BY(mutex) = 0;  // and log-probabilities
  size_t answered_before ABSL_GUARDED_BY(mutex) = 0;  // tokens, when its life began
  bool admitted ABSL_GUARDED_BY(mutex) = false;       // by its life
  bool told_admitted ABSL_GUARDED_BY(mutex) = false;  // its sink, that a life did
  int futile_lives ABSL_GUARDED_BY(mutex) = 0;        // in a row

  // Of all its lives.
  const Clock::time_point submitted = Clock::now();
  Clock::time_point begun ABSL_GUARDED_BY(mutex) = submitted;  // in its life
  Clock::time_point first_token ABSL_GUARDED_BY(mutex){};
};

RecoveringEngine::~RecoveringEngine() { EndAll(Unavailable("the engine was stopped")); }

absl::StatusOr<RequestId> RecoveringEngine::Submit(EngineRequest request, EngineSink sink) {
  RequestPtr entry;
  std::shared_ptr<Engine> life;
  uint64_t epoch = 0;
  {
    const MutexLock lock(mutex_);
    if (!dead_.ok()) return dead_;
    if (life_ == nullptr && requests_.size() >= options_.most_open) {
      return ResourceExhausted("{} while the ranks are started again, which is the limit",
                               Counted(std::ssize(requests_), "request waits", "requests wait"));
    }
    entry = std::make_shared<Request>(next_id_++, std::move(request), std::move(sink));
    requests_.emplace(entry->id, entry);
    life = life_;
    epoch = epoch_;
  }
  if (life == nullptr) return entry->id;
  const absl::Status submitted = SubmitTo(entry, std::move(life), epoch);
  if (submitted.ok()) return entry->id;
  {
    const MutexLock lock(entry->mutex);
    entry->finished = true;  // its sink hears nothing: whoever submits gets the error
  }
  Forget(entry->id);
  return submitted;
}

absl::Status RecoveringEngine::SubmitTo(const RequestPtr& request, std::shared_ptr<Engine> life,
                                        uint64_t epoch) {
  while (life != nullptr) {
    EngineRequest work;
    std::shared_ptr<Engine> before;  // where it runs still
    std::optional<RequestId> id_before;
    {
      const MutexLock lock(request->mutex);
      if (request->finished || request->epoch >= epoch) return absl::OkStatus();
      if (!request->waits) {
        before = request->life.lock();
        id_before = request->id_there;
      }
      request->life = life;
      request->epoch = epoch;
      request->waits = false;
      request->id_there.reset();
      request->answered_before = request->request.answered.size();
      request->admitted = false;
      request->begun = Clock::now();
      work = request->request;
      const int64_t scored = request->logprobs_until;
      work.first_prompt_logprob = std::max(work.first_prompt_logprob, static_cast<int32_t>(scored));
      if (scored >= std::ssize(work.prompt)) work.prompt_logprobs = false;
    }
    if (before != nullptr && id_before) before->Cancel(*id_before);
    const absl::StatusOr<RequestId> id = life->Submit(std::move(work), SinkOf(request, epoch));
    if (id.ok()) {
      const MutexLock lock(request->mutex);
      const bool moved = request->epoch != epoch;
      if (!moved) request->id_there = *id;
      if (moved || request->cancelled) life->Cancel(*id);
      return absl::OkStatus();
    }
    {
      const MutexLock lock(request->mutex);
      if (request->epoch != epoch) return absl::OkStatus();  // the next life has it
    }
    if (BlamesRequest(id.status()) || !Dies(*life)) return id.status();
    // It died before it took the request, which waits on; perhaps the next life is there already.
    bool cancelled = false;
    {
      const MutexLock lock(request->mutex);
      if (request->epoch == epoch) request->waits = true;
      cancelled = request->cancelled;
    }
    if (cancelled) Finish(*request, {.reason = FinishReason::kCancelled});
    const MutexLock lock(mutex_);
    if (!dead_.ok()) return dead_;
    life = epoch_ > epoch ? life_ : nullptr;
    epoch = epoch_;
  }
  return absl::OkStatus();
}

EngineSink RecoveringEngine::SinkOf(const RequestPtr& request, uint64_t epoch) {
  EngineSink sink;
  sink.on_admitted = [this, request, epoch] {
    const MutexLock lock(request->mutex);
    if (request->epoch != epoch) return;
    last_admitter_ = epoch;
    request->admitted = true;
    if (std::exchange(request->told_admitted, true) || request->finished) return;
    if (request->sink.on_admitted) request->sink.on_admitted();
  };
  sink.on_tokens = [this, request, epoch](std::span<const int32_t> tokens) {
    const MutexLock lock(request->mutex);
    if (request->epoch != epoch || request->finished) return;
    last_giver_ = epoch;
    if (request->first_token == Clock::time_point{}) request->first_token = Clock::now();
    auto& answered = request->request.answered;
    answered.insert(answered.end(), tokens.begin(), tokens.end());
    if (request->sink.on_tokens) request->sink.on_tokens(tokens);
  };
  sink.on_logits = [request, epoch](int64_t position, std::span<const float> logits) {
    const MutexLock lock(request->mutex);
    if (request->epoch != epoch || request->finished || position < request->logits_until) return;
    request->logits_until = position + 1;
    if (request->sink.on_logits) request->sink.on_logits(position, logits);
  };
  sink.on_logprobs = [request, epoch](int64_t position, std::span<const TokenLogprobs> logprobs) {
    const MutexLock lock(request->mutex);
    if (request->epoch != epoch || request->finished) return;
    const int64_t known =
        std::clamp<int64_t>(request->logprobs_until - position, 0, std::ssize(logprobs));
    if (known == std::ssize(logprobs)) return;
    request->logprobs_until = position + std::ssize(logprobs);
    if (request->sink.on_logprobs) {
      request->sink.on_logprobs(position + known, logprobs.subspan(static_cast<size_t>(known)));
    }
  };
  sink.on_finish = [this, request, epoch](const parallel::Finish& finish) {
    {
      const MutexLock lock(request->mutex);
      if (request->epoch != epoch || request->finished) return;
      if (finish.engine_died && !request->cancelled) {
        request->waits = true;
        return;
      }
    }
    parallel::Finish last = finish;
    if (finish.engine_died) last = {.reason = FinishReason::kCancelled};
    Finish(*request, std::move(last));
  };
  return sink;
}

void RecoveringEngine::Finish(Request& request, parallel::Finish finish) {
  const MutexLock lock(request.mutex);
  if (std::exchange(request.finished, true)) return;
  const auto seconds = [](Clock::time_point from, Clock::time_point to) {
    return std::chrono::duration<double>(to - from).count();
  };
  Usage& usage = finish.usage;
  usage.prompt_tokens = static_cast<int32_t>(request.request.prompt.size());
  usage.completion_tokens = static_cast<int32_t>(request.request.answered.size());
  // What lives before took is a wait, as far as it was for the first token.
  if (request.begun > request.submitted && request.first_token > request.begun) {
    usage.queue_seconds += seconds(request.submitted, request.begun);
  } else if (request.first_token != Clock::time_point{} && request.first_token < request.begun) {
    usage.decode_seconds = seconds(request.first_token, Clock::now());
    usage.prefill_seconds = seconds(request.submitted, request.first_token);
    usage.queue_seconds = 0;
  }
  Forget(request.id);  // first: whoever hears of the end may ask for more
  if (request.sink.on_finish) request.sink.on_finish(finish);
}

void RecoveringEngine::Forget(RequestId id) {
  const MutexLock lock(mutex_);
  requests_.erase(id);
}

void RecoveringEngine::Cancel(RequestId id) {
  RequestPtr request;
  {
    const MutexLock lock(mutex_);
    const auto found = requests_.find(id);
    if (found == requests_.end()) return;
    request = found->second;
  }
  std::shared_ptr<Engine> life;
  std::optional<RequestId> id_there;
  bool waits = false;
  {
    const MutexLock lock(request->mutex);
    request->cancelled = true;
    life = request->life.lock();
    id_there = request->id_there;
    waits = request->waits;
  }
  if (waits) {
    Finish(*request, {.reason = FinishReason::kCancelled});
  } else if (id_there && life != nullptr) {
    life->Cancel(*id_there);
  }  // else whoever submits it cancels it
}

std::shared_ptr<Engine> RecoveringEngine::Life() {
  const MutexLock lock(mutex_);
  return life_;
}

absl::StatusOr<EngineStatus> RecoveringEngine::StatusOf(const std::shared_ptr<Engine>& life) {
  if (life == nullptr) return Unavailable("there are no ranks now");
  absl::StatusOr<EngineStatus> now = life->Status();
  const MutexLock lock(mutex_);
  if (now.ok() && life == life_) last_ = *now;
  return now;
}

absl::StatusOr<EngineStatus> RecoveringEngine::Status() {
  const std::shared_ptr<Engine> life = Life();
  const absl::StatusOr<EngineStatus> now = StatusOf(life);
  const MutexLock lock(mutex_);
  if (!dead_.ok()) return dead_;
  if (!now.ok() && life != nullptr && life == life_ && life->Health().ok()) return now.status();
  EngineStatus status = last_;
  AddCounts(before_, status);
  status.recovery = recovery_;
  if (recovery_.down) {
    status.running = 0;
    status.waiting = static_cast<int32_t>(requests_.size());
    status.blocks_used = 0;
    status.tokens_per_second = 0;
    status.recovery.down_seconds = std::chrono::duration<double>(Clock::now() - lost_at_).count();
  }
  return status;
}

absl::Status RecoveringEngine::Health() {
  const MutexLock lock(mutex_);
  if (!dead_.ok() || life_ != nullptr) return dead_;
  return absl::UnknownError(fmt::format("the ranks are being started again: {}", Message(lost_)));
}

void RecoveringEngine::Scale(int ranks, const ScaleDone& done) {
  if (!options_.scale) return Engine::Scale(ranks, done);
  options_.scale(ranks, done);
}

std::vector<RecoveringEngine::RequestPtr> RecoveringEngine::Open() {
  const MutexLock lock(mutex_);
  std::vector<RequestPtr> open;
  for (const auto& [id, request] : requests_) open.push_back(request);
  return open;
}

int64_t RecoveringEngine::LongestOpen() {
  const MutexLock lock(mutex_);
  int64_t longest = 0;
  for (const auto& [id, request] : requests_) longest = std::max(longest, request->most_tokens);
  return longest;
}

bool RecoveringEngine::ReadOpen(Engine& next, const std::function<bool()>& keep_on) {
  PromptReadings readings(next);
  for (const RequestPtr& request : Open()) {
    EngineRequest reading;
    {
      const MutexLock lock(request->mutex);
      if (request->finished || !request->request.reuse || request->request.prompt_logprobs)
        continue;
      reading.prompt = request->request.prompt;
      const std::vector<int32_t>& answered = request->request.answered;
      reading.prompt.insert(reading.prompt.end(), answered.begin(), answered.end());
      reading.tenant = request->request.tenant;
      reading.client = request->request.client;
    }
    readings.Submit(std::move(reading));
  }
  return readings.Wait(keep_on);
}

void RecoveringEngine::WarmUp(Engine& next, const std::function<bool()>& keep_on) {
  for (int reading = 0; reading < kMostReadings; ++reading) {
    const Clock::time_point begin = Clock::now();
    if (!ReadOpen(next, keep_on) || Clock::now() - begin < kShortReading) return;
  }
}

void RecoveringEngine::Begin(const std::shared_ptr<Engine>& life, uint64_t epoch) {
  {
    const MutexLock lock(mutex_);
    life_ = life;
    KeepCounts();
    epoch_ = epoch;
    recovery_.epoch = epoch;
    if (std::exchange(recovery_.down, false)) {
      const double seconds = std::chrono::duration<double>(Clock::now() - lost_at_).count();
      ++recovery_.restarts;
      recovery_.lost_seconds += seconds;
      recovery_.last.push_back({.epoch = epoch, .reason = recovery_.reason, .seconds = seconds});
      if (recovery_.last.size() > options_.told_restarts) {
        recovery_.last.erase(recovery_.last.begin());
      }
    }
  }
  for (const RequestPtr& request : Open()) {
    const absl::Status submitted = SubmitTo(request, life, epoch);
    if (submitted.ok()) continue;
    Finish(*request, {.reason = FinishReason::kFailed, .status = submitted});
  }
}

void RecoveringEngine::KeepCounts() {
  AddCounts(last_, before_);
  ForEachCount(last_, {}, [](auto& to, const auto& from) { to = from; });
}

void RecoveringEngine::Lose(const absl::Status& why) {
  std::shared_ptr<Engine> life;  // as in EndAll
  {
    const MutexLock lock(mutex_);
    life = std::exchange(life_, nullptr);
    lost_ = why;
    if (!std::exchange(recovery_.down, true)) lost_at_ = Clock::now();
    recovery_.reason = std::string(Message(why));
    KeepCounts();
  }
  const EngineNotice notice{
      .number = ++losses_,
      .text = fmt::format("{}; the ranks are started again, and the answer goes on then",
                          Message(why))};
  for (const RequestPtr& request : Open()) {
    bool futile = false;
    bool cancelled = false;
    {
      const MutexLock lock(request->mutex);
      if (request->finished) continue;
      cancelled = request->cancelled;
      request->waits = true;
      // Whoever only waited in the queue did not end it. Where nobody is known to have left the
      // queue, the news may have died with rank 0: it may be anybody.
      const bool suspect = request->admitted || last_admitter_ != request->epoch;
      if (std::exchange(request->id_there, std::nullopt)) {
        if (request->request.answered.size() > request->answered_before) {
          request->futile_lives = 0;
        } else if (suspect) {
          ++request->futile_lives;
        }
      }
      futile = request->futile_lives >= options_.most_futile_lives;
      if (!futile && !cancelled && request->sink.on_notice) request->sink.on_notice(notice);
    }
    if (cancelled) {
      Finish(*request, {.reason = FinishReason::kCancelled});
    } else if (futile) {
      Finish(*request,
             {.reason = FinishReason::kFailed,
              .status = Unavailable(
                  "{} in a row ended while this request was computed, the last "
                  "one so: {}; it is not tried again",
                  Counted(options_.most_futile_lives, "life of the ranks", "lives of the ranks"),
                  Message(why))});
    }
  }
}

void RecoveringEngine::Explain(const absl::Status& why) {
  const MutexLock lock(mutex_);
  lost_ = why;
  recovery_.reason = std::string(Message(why));
}

void RecoveringEngine::GiveUp(const absl::Status& why) { EndAll(why); }

void RecoveringEngine::EndAll(const absl::Status& why) {
  std::shared_ptr<Engine> life;  // dies without the lock, which what it calls takes
  {
    const MutexLock lock(mutex_);
    if (dead_.ok()) dead_ = why;
    life = std::exchange(life_, nullptr);
  }
  for (const RequestPtr& request : Open()) {
    Finish(*request,
           {.reason = FinishReason::kFailed, .status = why, .engine_died = true, .usage = {}});
  }
}

}  // namespace tandem::parallel
