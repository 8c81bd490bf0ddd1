#include "parallel/coordinator/coordinator.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "core/base/counted.h"
#include "core/base/isa.h"
#include "core/base/retry_after.h"
#include "parallel/plan/step_plan_codec.h"

namespace tandem::parallel {
namespace {

std::vector<std::string> HostsOf(const std::vector<RankStatus>& ranks) {
  std::vector<std::string> hosts;
  hosts.reserve(ranks.size());
  for (const RankStatus& rank : ranks) hosts.push_back(rank.host);
  return hosts;
}

}  // namespace

Coordinator::Coordinator(RankSetup setup, std::unique_ptr<ControlLeader> channel,
                         CoordinatorOptions options)
    : limits_(setup.scheduler),
      options_(std::move(options)),
      scheduler_(setup.scheduler),
      prompt_budget_(limits_.prefill_chunk),
      fetches_(setup.ranks.size(), options_.least_fetch_deadline, options_.fetch_deadline),
      held_(setup.ranks.size(), options_.flush_deadline),
      record_counts_(setup.ranks.size()),
      setup_(std::move(setup)),
      channel_(std::move(channel)),
      agreement_(HostsOf(setup_.ranks)),
      reduce_nanoseconds_(setup_.ranks.size()) {
  if (options_.spare_streams) {
    scheduler_.SetPromptTokens([this](int32_t decoding, int32_t prompts) {
      return prompt_budget_.Tokens(decoding, prompts);
    });
  }
  if (options_.speculate) {
    scheduler_.SetDraftSource(
        [this](const RequestState& request, int32_t most, int32_t step_tokens) {
          return speculation_.Guess(request, most, step_tokens);
        });
  }
  ListenToRecords();
  status_.ranks = setup_.ranks;
  status_.keeps_records = limits_.records;
  status_.context = scheduler_.context();
  status_.blocks_total = scheduler_.blocks_total();
  channel_->Listen({.on_acknowledgement =
                        [this](const Acknowledgement& acknowledgement) {
                          const absl::Status agreed = agreement_.Follower(acknowledgement);
                          if (!agreed.ok()) return Die(agreed);
                          reduce_nanoseconds_[static_cast<size_t>(acknowledgement.rank)] =
                              acknowledgement.reduce_nanoseconds;
                        },
                    .on_report =
                        [this](const RecordReport& report) {
                          const MutexLock lock(mutex_);
                          inbox_.reports.push_back(report);
                          changed_.NotifyAll();
                        },
                    .on_lost = [this](const absl::Status& why) { Die(why); }});
  if (options_.watchdog != nullptr) {
    options_.watchdog->TellFirst(
        [this](const StalledCollective& stalled) {
          channel_->Stalled(Unavailable("{}", stalled.text));
        },
        kStallGrace);
  }
  thread_ = std::thread([this] { Loop(); });
}

Coordinator::~Coordinator() {
  constexpr std::chrono::seconds kPatience{5};
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.NotifyAll();
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (!loop_ended_ && changed_.WaitUntil(mutex_, deadline)) {
    }
    if (!loop_ended_) {
      const absl::Status why =
          health_.ok() ? Unavailable("the last step did not end within {} s", kPatience.count())
                       : health_;
      lock.Unlock();
      if (options_.abort_world) options_.abort_world(why);
    }
  }
  thread_.join();
  if (options_.watchdog != nullptr) options_.watchdog->TellFirst(nullptr, {});
  channel_->Close();
  setup_.records.reset();
  setup_.spilled.reset();
  for (const PendingDurableAnswers::Held& held : held_.ReleaseAll()) TellHeld(held);
  open_.FailAll(Unavailable("the engine was stopped"));
}

absl::StatusOr<RequestId> Coordinator::Submit(EngineRequest request, EngineSink sink) {
  TANDEM_RETURN_IF_ERROR(Scheduler::Check(limits_, request));
  const MutexLock lock(mutex_);
  if (!health_.ok()) return health_;
  if (stopping_) return Unavailable("the engine is being stopped");
  const size_t most = static_cast<size_t>(limits_.max_running) + options_.max_waiting;
  if (open_.size() >= most) {
    const int32_t seconds = SecondsUntilRoom();
    return WithRetryAfter(
        ResourceExhausted("{} running or waiting, which is the limit; try again in {} s",
                          Counted(static_cast<int64_t>(most), "request is", "requests are"),
                          seconds),
        seconds);
  }
  const RequestId id = next_id_++;
  open_.Add(id, std::move(sink),
            {.prompt_tokens = static_cast<int32_t>(request.prompt.size()),
             .completion_tokens = static_cast<int32_t>(request.answered.size())});
  inbox_.requests.emplace_back(id, std::move(request));
  changed_.NotifyAll();
  return id;
}

int32_t Coordinator::SecondsUntilRoom() {
  // By then a quarter of the queue should have moved on, so that not all who come back are refused
  // again. Without an answer in the last ten seconds, nobody knows.
  constexpr double kLeast = 1, kMost = 60;
  const double rate = finished_rate_.PerSecond(RateMeter::Time::clock::now());
  const double places = 1 + options_.max_waiting / 4.0;
  const double seconds = rate > 0 ? std::clamp(places / rate, kLeast, kMost) : kMost / 4;
  return static_cast<int32_t>(std::ceil(seconds));
}

void Coordinator::Cancel(RequestId id) {
  const MutexLock lock(mutex_);
  inbox_.cancelled.push_back(id);
  changed_.NotifyAll();
}

absl::StatusOr<EngineStatus> Coordinator::Status() {
  const MutexLock lock(mutex_);
  EngineStatus status = status_;
  for (size_t rank = 0; rank < status.ranks.size(); ++rank) {
    status.ranks[rank].reduce_nanoseconds = reduce_nanoseconds_[rank];
  }
  status.waiting += static_cast<int32_t>(inbox_.requests.size());
  status.tokens_per_second = generated_rate_.PerSecond(RateMeter::Time::clock::now());
  return status;
}

absl::Status Coordinator::Health() {
  const MutexLock lock(mutex_);
  return health_;
}

void Coordinator::Loop() {
  core::SetFloatEnvironment();
  if (options_.on_step_thread) options_.on_step_thread();
  while (WaitForWork()) {
    if (const absl::Status status = Step(); !status.ok()) Die(BlameForStepFailure(status));
  }
  FinishPlanAhead();
  StopFollowers();
  const MutexLock lock(mutex_);
  loop_ended_ = true;
  changed_.NotifyAll();
}

bool Coordinator::WaitForWork() {
  const bool has_work = current_ || scheduler_.has_work();
  const auto deadline = NextRecordDeadline();
  const MutexLock lock(mutex_);
  while (!has_work && inbox_.empty() && !stopping_ && health_.ok()) {
    if (!deadline) {
      changed_.Wait(mutex_);
    } else if (!changed_.WaitUntil(mutex_, *deadline)) {
      break;
    }
  }
  return !stopping_ && health_.ok();
}

absl::Status Coordinator::Step() {
  TakeInbox();
  AskForRecords();
  if (!current_) {
    TANDEM_ASSIGN_OR_RETURN(current_, Schedule());
  }
  if (current_) {
    std::optional<InFlight> ahead;
    bool ahead_begun = false;
    const auto begin = std::chrono::steady_clock::now();
    TANDEM_ASSIGN_OR_RETURN(const StepResult result, RunCurrent(ahead, ahead_begun));
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    if (!current_->step.plan.sequences.empty()) {
      prompt_budget_.Add(current_->step.decoding, current_->step.prompt_tokens, took.count());
      speculation_.StepTook(current_->step, took.count());
      fetches_.StepTook(current_->step, took.count());
    }
    TANDEM_RETURN_IF_ERROR(Commit(*current_, result));
    current_ = std::move(ahead);
    current_begun_ = ahead_begun;
  }
  PublishStatus();
  return absl::OkStatus();
}

absl::StatusOr<StepResult> Coordinator::RunCurrent(std::optional<InFlight>& ahead,
                                                   bool& ahead_begun) {
  RankRunner& runner = *setup_.runner;
  const ScheduledStep& step = current_->step;
  const bool waits = step.samples() && speculation_.WorthWaiting(step);
  if (options_.plan_ahead && !waits) {
    TANDEM_ASSIGN_OR_RETURN(ahead, Schedule());
  }
  if (!current_begun_) TANDEM_RETURN_IF_ERROR(runner.Begin(step.plan));
  if (runner.AllowsNext()) {
    if (!ahead && !waits) {
      TANDEM_ASSIGN_OR_RETURN(ahead, Schedule());
    }
    if (ahead) TANDEM_RETURN_IF_ERROR(runner.Begin(ahead->step.plan));
    ahead_begun = ahead.has_value();
  }
  return runner.Finish(step.plan, current_->hash);
}

void Coordinator::TakeInbox() {
  Inbox inbox;
  {
    const MutexLock lock(mutex_);
    std::swap(inbox, inbox_);
  }
  for (auto& [id, request] : inbox.requests) scheduler_.Add(id, std::move(request));
  for (const RequestId id : inbox.cancelled) {
    speculation_.End(id);
    if (scheduler_.Cancel(id)) open_.Finish(id, FinishReason::kCancelled, absl::OkStatus());
    if (const auto held = held_.Release(id)) TellHeld(*held);
  }
  TakeRecordNews(inbox);
}

absl::StatusOr<std::optional<Coordinator::InFlight>> Coordinator::Schedule() {
  std::optional<ScheduledStep> step = scheduler_.Schedule();
  if (!step) return std::nullopt;
  uint64_t prompt_tokens = 0;
  ReusedFrom reused;
  for (const Admission& admission : step->admitted) {
    open_.Admitted(admission.id, admission.reused_from, admission.reuse_limit);
    const RequestState* state = scheduler_.FindRunning(admission.id);
    if (options_.speculate && state != nullptr && state->request.speculate) {
      speculation_.Begin(*state);
    }
    if (admission.again) continue;
    prompt_tokens += static_cast<uint64_t>(admission.prompt_tokens);
    reused += admission.reused_from;
  }
  for (const RequestId id : step->preempted) open_.Preempted(id);
  if (!step->admitted.empty() || !step->preempted.empty()) {
    const MutexLock lock(mutex_);
    status_.prompt_tokens += prompt_tokens;
    status_.reused_tokens += reused.total();
    status_.reused_from += reused;
    status_.preemptions += step->preempted.size();
  }
  const std::vector<std::byte> encoded = EncodeStepPlan(step->plan);
  TANDEM_RETURN_IF_ERROR(channel_->Send(encoded));
  if (step->plan.flush) held_.MarkLeft(step->plan.step);
  return InFlight{.step = std::move(*step), .hash = StepPlanHash(encoded)};
}

absl::Status Coordinator::Commit(const InFlight& flight, const StepResult& result) {
  TANDEM_RETURN_IF_ERROR(agreement_.Own(flight.step.plan.step, result.digest));
  reduce_nanoseconds_[0] = result.reduce_nanoseconds;
  uint64_t generated = 0;
  uint64_t prefilled = 0;
  uint64_t finished = 0;
  uint64_t drafted = 0;
  uint64_t accepted = 0;
  const auto vocab = static_cast<size_t>(limits_.vocab);
  for (const RequestEvent& event : scheduler_.Commit(flight.step, result)) {
    for (size_t row = 0; row * vocab < event.logits.size(); ++row) {
      open_.Logits(event.id, event.first_logit_position + static_cast<int64_t>(row),
                   event.logits.subspan(row * vocab, vocab));
    }
    open_.Computed(event.id, event.computed);
    open_.Drafted(event.id, event.drafted, event.accepted);
    speculation_.Take(event);
    prefilled += static_cast<uint64_t>(event.prefilled);
    drafted += static_cast<uint64_t>(event.drafted);
    accepted += static_cast<uint64_t>(event.accepted);
    if (const absl::Status scored = DeliverScores(event); !scored.ok()) {
      if (!event.finish) scheduler_.Cancel(event.id);
      speculation_.End(event.id);
      open_.Finish(event.id, FinishReason::kFailed, scored);
      ++finished;
      continue;
    }
    for (const int32_t token : event.tokens) open_.Token(event.id, token);
    generated += event.tokens.size();
    if (event.finish) {
      Finished(event);
      ++finished;
    }
  }
  const MutexLock lock(mutex_);
  const auto now = RateMeter::Time::clock::now();
  generated_rate_.Add(now, generated);
  finished_rate_.Add(now, finished);
  ++status_.steps;
  status_.tokens_generated += generated;
  status_.tokens_prefilled += prefilled;
  status_.drafted_tokens += drafted;
  status_.accepted_tokens += accepted;
  return absl::OkStatus();
}

void Coordinator::Finished(const RequestEvent& event) {
  if (event.durable && limits_.records && *event.finish != FinishReason::kFailed) {
    held_.Hold(event.id, *event.finish, std::chrono::steady_clock::now());
  } else {
    open_.Finish(event.id, *event.finish, event.status);
  }
}

absl::Status Coordinator::DeliverScores(const RequestEvent& event) {
  if (event.scored.empty()) return absl::OkStatus();
  std::vector<TokenLogprobs> logprobs;
  for (const ScoredToken& scored : event.scored) {
    if (!scored.score) {
      return Internal("numeric failure at position {}: a logit was not finite",
                      scored.position - 1);
    }
    logprobs.push_back(*scored.score);
  }
  open_.Logprobs(event.id, event.scored.front().position, logprobs);
  return absl::OkStatus();
}

void Coordinator::PublishStatus() {
  const MutexLock lock(mutex_);
  status_.running = scheduler_.running();
  status_.waiting = scheduler_.waiting();
  status_.blocks_used = scheduler_.blocks_used();
  status_.blocks_cached = scheduler_.blocks_cached();
  status_.host_tier = scheduler_.host_tier();
}

void Coordinator::Die(const absl::Status& why) {
  {
    const MutexLock lock(mutex_);
    if (!health_.ok() || stopping_) return;
    health_ = why;
    inbox_ = {};
    changed_.NotifyAll();
  }
  open_.FailAll(why);
}

absl::Status Coordinator::BlameForStepFailure(const absl::Status& own) {
  const auto deadline = std::chrono::steady_clock::now() + options_.blame_wait;
  const MutexLock lock(mutex_);
  while (status_.ranks.size() > 1 && health_.ok() && !stopping_ &&
         changed_.WaitUntil(mutex_, deadline)) {
  }
  return health_.ok() ? own : health_;
}

void Coordinator::FinishPlanAhead() {
  // The followers have this plan already and wait for this rank in its collectives.
  if (!current_ || !Health().ok()) return;
  RankRunner& runner = *setup_.runner;
  const StepPlan& plan = current_->step.plan;
  absl::Status status = current_begun_ ? absl::OkStatus() : runner.Begin(plan);
  if (status.ok()) status = runner.Finish(plan, current_->hash).status();
  if (!status.ok()) Die(status);
}

void Coordinator::StopFollowers() {
  const absl::Status sent = channel_->Send(EncodeStepPlan(scheduler_.StopPlan()));
  // A channel that is gone has ended the followers already.
  static_cast<void>(sent);
}

}  // namespace tandem::parallel
