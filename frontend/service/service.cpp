#include "frontend/service/service.h"

#include <malloc.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "core/base/retry_after.h"

/// The service's thread: news, timers, and the calls of other threads.
namespace tandem::frontend {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kEngineCheckInterval{250};
constexpr milliseconds kEndingTime{300};  // for what still waits, and requests on their way
constexpr milliseconds kLogTime{5000};    // for a disk that takes long
constexpr milliseconds kTurn{20};         // so that a flood does not keep answers waiting
constexpr milliseconds kStatusTime{500};  // for the engine's part of a status
constexpr size_t kStatusQuestions = 256;  // that wait for it
constexpr milliseconds kIdleTime{1000};   // after which memory goes back,
constexpr milliseconds kBusyTime{15000};  // or this, since it takes milliseconds

double Seconds(Service::Clock::duration time) {
  return std::chrono::duration<double>(time).count();
}

}  // namespace

std::string ClientName(std::string_view front_end, uint64_t number) {
  return fmt::format("{}{}/{}", '\0', front_end, number);
}

Service::Service(ServiceOptions options, parallel::Engine& engine, const TextModel& model,
                 ConversationLog* log)
    : options_(std::move(options)),
      engine_(engine),
      model_(model),
      log_(log),
      requests_(options_.kept_answers, options_.kept_answer_bytes),
      conversations_(options_.conversations) {
  counts_.model = model_.name();
  counts_.vocab = model_.vocab();
  counts_.context = model_.context();
}

Service::~Service() {
  preparer_.reset();
  figures_.reset();
  // What the engine took meanwhile nobody waits for.
  std::vector<Mailbox::Event> events = mailbox_->Take();
  std::move(events.begin(), events.end(), std::back_inserter(news_));
  for (const Mailbox::Event& event : news_) {
    const auto* prepared = std::get_if<std::unique_ptr<Prepared>>(&event.what);
    if (prepared == nullptr) continue;
    for (const parallel::RequestId id : (*prepared)->engine_ids) engine_.Cancel(id);
  }
  for (RequestRecord* record : requests_.AllOpen()) CancelInEngine(*record);
}

void Service::Restore(const ConversationName& name, Conversation conversation) {
  conversations_.Restore(name, std::move(conversation));
}

void Service::Stop() {
  stop_.store(true);
  mailbox_->Wake();
}

void Service::Drain(milliseconds timeout) {
  if (draining_.exchange(true)) return;
  Call([this, timeout] {
    drain_time_ = timeout;
    drains_until_ = Clock::now() + timeout;
  });
}

void Service::Begin() {
  thread_.store(std::this_thread::get_id());
  preparer_.emplace(engine_, model_, mailbox_, options_.preparer);
  figures_.emplace(engine_, mailbox_);
  figures_->Ask();
}

bool Service::ended() const {
  if (ended_) return true;
  const Clock::time_point now = Clock::now();
  return ends_at_ && now >= *ends_at_ && (!WaitsForLog() || now >= *ends_at_ + kLogTime);
}

absl::Status Service::End() {
  ending_.store(true);
  TakeNews();  // requests that other threads have just begun are refused
  for (const auto& [key, turn] : std::exchange(abandoned_, {})) EraseKv(turn);
  return ends_with_;
}

void Service::Work(bool all_sent) {
  ContinueReplays();
  CheckTimers();
  CheckEngine();
  ReturnMemory();
  if (ends_at_) return;
  if (stop_.load() || (drains_until_ && Idle())) {
    EndAsTold("the server is shutting down", all_sent);
  } else if (drains_until_ && Clock::now() >= *drains_until_) {
    EndAsTold(fmt::format("the server is shutting down, and this answer was not complete within "
                          "the {:g} s that --drain-timeout gives",
                          Seconds(drain_time_)),
              all_sent);
  }
}

bool Service::Idle() const {
  return requests_.open() == 0 && commands_.empty() && status_questions_.empty() &&
         replays_.empty();
}

void Service::EndAsTold(std::string_view reason, bool all_sent) {
  if (Idle() && all_sent) {
    ending_.store(true);
    ended_ = true;
    return;
  }
  FailAll(reason);
  EndSoon(absl::OkStatus());
}

void Service::EndSoon(absl::Status status) {
  ending_.store(true);
  ends_with_ = std::move(status);
  ends_at_ = Clock::now() + kEndingTime;
}

milliseconds Service::UntilNextTimer() const {
  if (!news_.empty() || replays_are_late_) return milliseconds(0);
  Clock::time_point next = next_engine_check_;
  if (ends_at_) next = std::min(next, *ends_at_);
  if (next_timer_) next = std::min(next, *next_timer_);
  if (drains_until_ && !ends_at_) next = std::min(next, *drains_until_);
  const auto wait = std::chrono::ceil<milliseconds>(next - Clock::now());
  return std::clamp(wait, milliseconds(0), kEngineCheckInterval);
}

void Service::CheckEngine() {
  if (ends_at_ || Clock::now() < next_engine_check_) return;
  next_engine_check_ = Clock::now() + kEngineCheckInterval;
  absl::Status health = engine_.Health();
  // While the reason is being found out, the engine itself ends the open requests, with the reason.
  if (health.ok() || absl::IsUnknown(health)) return;
  FailAll(Message(health));
  EndSoon(std::move(health));
}

void Service::NoteUse() {
  if (!used_since_) used_since_ = Clock::now();
}

void Service::ReturnMemory() {
  if (!used_since_) return;
  const milliseconds wait = requests_.open() > 0 ? kBusyTime : kIdleTime;
  if (Clock::now() < *used_since_ + wait) return;
  used_since_.reset();
  (void)malloc_trim(0);
}

void Service::SetTimer(Clock::time_point at) {
  next_timer_ = std::min(next_timer_.value_or(at), at);
}

void Service::CheckTimers() {
  const Clock::time_point now = Clock::now();
  if (!next_timer_ || now < *next_timer_) return;
  next_timer_.reset();
  while (!status_questions_.empty() && now >= status_questions_.front().until) {
    AnswerStatus(/*answers=*/false);
  }
  if (!status_questions_.empty()) SetTimer(status_questions_.front().until);
  std::vector<uint64_t> keys;
  for (const RequestRecord* record : requests_.AllOpen()) keys.push_back(record->key);
  for (const uint64_t key : keys) {
    // Ending one may show that its client is gone, with all its other requests.
    RequestRecord* record = requests_.FindOpen(key);
    if (record == nullptr) continue;
    if (record->detached_until && now >= *record->detached_until) {
      DropUnheard(*record);
    } else if (record->deadline && now >= *record->deadline) {
      CancelInEngine(*record);
      Fail(*record, ErrorCode::kDeadlineExceeded,
           "the request's deadline passed before its answer was complete");
    } else {
      if (record->detached_until) SetTimer(*record->detached_until);
      if (record->deadline) SetTimer(*record->deadline);
    }
  }
}

void Service::TakeNews() {
  std::vector<Mailbox::Event> events = mailbox_->Take();
  std::move(events.begin(), events.end(), std::back_inserter(news_));
  if (!news_.empty()) NoteUse();
  const Clock::time_point end = Clock::now() + kTurn;
  while (!news_.empty()) {
    Mailbox::Event event = std::move(news_.front());
    news_.pop_front();
    Take(std::move(event));
    if (Clock::now() >= end) return;
  }
}

void Service::Take(Mailbox::Event event) {
  if (const auto* call = std::get_if<Mailbox::Call>(&event.what)) {
    call->function();
    return;
  }
  if (auto* answer = std::get_if<Mailbox::EngineAnswer>(&event.what)) {
    TakeFigures(std::move(*answer));
    return;
  }
  if (const auto* command = std::get_if<Mailbox::CommandLogged>(&event.what)) {
    TakeCommand(event.key, command->status);
    return;
  }
  RequestRecord* record = requests_.FindOpen(event.key);
  if (record == nullptr) {
    // Other events of requests that were dropped meanwhile find nobody.
    TakeAbandoned(event);
  } else if (auto* prepared = std::get_if<std::unique_ptr<Prepared>>(&event.what)) {
    TakePrepared(*record, std::move(**prepared));
  } else if (record->preparing) {
    early_[event.key].push_back(std::move(event));
  } else if (const auto* finish = std::get_if<parallel::Finish>(&event.what)) {
    Finish(*record, event.choice, *finish);
  } else if (const auto* logged = std::get_if<Mailbox::TurnLogged>(&event.what)) {
    TakeLogged(*record, logged->status);
  } else if (auto* logprobs = std::get_if<std::vector<parallel::TokenLogprobs>>(&event.what)) {
    std::vector<parallel::TokenLogprobs>& known = record->choices[event.choice].logprobs;
    std::move(logprobs->begin(), logprobs->end(), std::back_inserter(known));
  } else if (const auto* notice = std::get_if<parallel::EngineNotice>(&event.what)) {
    TakeNotice(*record, *notice);
  } else {
    Take(*record, event.choice, std::get<std::vector<int32_t>>(event.what));
  }
}

void Service::Call(std::function<void()> function) {
  if (thread_.load() == std::this_thread::get_id()) {
    NoteUse();
    function();
  } else {
    mailbox_->Put({.what = Mailbox::Call{std::move(function)}});
  }
}

void Service::Start(std::string client, Request request, std::shared_ptr<AnswerEvents> events) {
  RequestName name{.client = std::move(client), .id = request.id};
  Call([this, name = std::move(name), request = std::move(request),
        events = std::move(events)]() mutable { TakeStart(name, std::move(request), events); });
}

void Service::Cancel(std::string client, std::string id, std::shared_ptr<AnswerEvents> events) {
  RequestName name{.client = std::move(client), .id = std::move(id)};
  Call([this, name = std::move(name), events = std::move(events)] {
    TakeCancel(name, events.get());
  });
}

void Service::Resume(std::string client, std::string id, const ResumeRequest& resume,
                     std::shared_ptr<AnswerEvents> events) {
  RequestName name{.client = std::move(client), .id = std::move(id)};
  Call([this, name = std::move(name), resume, events = std::move(events)] {
    TakeResume(name, resume, *events);
  });
}

void Service::Scale(int ranks, parallel::Engine::ScaleDone answer) {
  Call([this, ranks, answer = std::move(answer)] {
    engine_.Scale(ranks,
                  [mailbox = mailbox_, answer](const absl::StatusOr<parallel::EngineScale>& scale) {
                    mailbox->Put({.what = Mailbox::Call{[answer, scale] { answer(scale); }}});
                  });
  });
}

void Service::Gone(std::string client) {
  Call([this, client = std::move(client)] { TakeGone(client); });
}

void Service::Status(StatusAnswer answer) {
  Call([this, answer = std::move(answer)]() mutable { AskStatus(std::move(answer)); });
}

void Service::CountRefused(ErrorCode code) {
  Call([this, code] { ++counts_.refused[code]; });
}

void Service::CountUnknown(const UnknownFields& fields) {
  if (fields.count > 0) Call([this, fields] { TellUnknown(fields); });
}

void Service::ShowHttp(std::function<HttpStatus()> http) {
  Call([this, http = std::move(http)]() mutable { http_ = std::move(http); });
}

void Service::TellUnknown(const UnknownFields& fields) {
  counts_.unknown_fields += fields.count;
  for (const std::string& name : fields.names) {
    if (told_fields_.size() == UnknownFields::kNames) return;
    if (!told_fields_.insert(name).second) continue;
    spdlog::warn(
        "a request has the field \"{}\", which nobody knows here: it does nothing (told once; "
        "docs/protocol.md lists the fields that are known)",
        name);
  }
}

void Service::AskStatus(StatusAnswer answer) {
  status_questions_.push_back({.answer = std::move(answer),
                               .number = figures_->Ask(),
                               .until = Clock::now() + kStatusTime});
  if (status_questions_.size() > kStatusQuestions) {
    AnswerStatus(/*answers=*/Clock::now() - engine_status_at_ < kStatusTime);
  }
  SetTimer(status_questions_.front().until);
}

void Service::TakeFigures(Mailbox::EngineAnswer answer) {
  const bool ok = answer.status.ok();
  if (ok) {
    counts_.engine = *std::move(answer.status);
    engine_status_at_ = Clock::now();
  }
  while (!status_questions_.empty() && status_questions_.front().number <= answer.number) {
    // An engine that is dead is no engine whose figures are of use.
    if (const absl::Status health = engine_.Health(); !ok && !health.ok()) {
      const StatusAnswer tell = std::move(status_questions_.front().answer);
      status_questions_.pop_front();
      ++counts_.refused[ErrorCodeOf(answer.status.status())];
      tell(answer.status.status());
    } else {
      AnswerStatus(ok);
    }
  }
}

void Service::AnswerStatus(bool answers) {
  const StatusAnswer tell = std::move(status_questions_.front().answer);
  status_questions_.pop_front();
  counts_.engine_answers = answers;
  counts_.engine_figures_age_seconds = Seconds(Clock::now() - engine_status_at_);
  counts_.open_requests = requests_.open();
  counts_.conversations = conversations_.count();
  counts_.conversation_bytes = conversations_.bytes();
  counts_.damaged_conversations = conversations_.damaged();
  if (log_ != nullptr) counts_.state = log_->Status();
  counts_.http.reset();
  if (http_) counts_.http = http_();
  counts_.uptime_seconds = Seconds(Clock::now() - started_);
  tell(counts_);
}

void Service::FailAll(std::string_view message) {
  std::vector<uint64_t> keys;
  for (const RequestRecord* record : requests_.AllOpen()) keys.push_back(record->key);
  for (const uint64_t key : keys) {
    // Failing one may show that its client is gone, with all its other requests.
    RequestRecord* record = requests_.FindOpen(key);
    if (record == nullptr || record->unlogged) continue;
    CancelInEngine(*record);
    Fail(*record, ErrorCode::kUnavailable, message);
  }
}

void Service::Refuse(AnswerEvents& events, ErrorCode code, std::string_view message) {
  ++counts_.refused[code];
  events.OnFailed(code, message, std::nullopt);
}

void Service::Refuse(AnswerEvents& events, const absl::Status& status) {
  ++counts_.refused[ErrorCodeOf(status)];
  events.OnFailed(ErrorCodeOf(status), Message(status), RetryAfter(status));
}

void Service::Answer(const CommandAnswer& answer, const absl::Status& status) {
  if (!status.ok()) ++counts_.refused[ErrorCodeOf(status)];
  answer(status);
}

}  // namespace tandem::frontend
