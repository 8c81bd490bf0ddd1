#include "frontend/server/server.h"

#include <malloc.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <iterator>
#include <type_traits>
#include <utility>

#include "core/base/counted.h"
#include "core/base/descriptor_limit.h"
#include "core/base/retry_after.h"
#include "frontend/protocol/protocol.h"

namespace tandem::frontend {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kEngineCheckInterval{250};
constexpr milliseconds kEndingTime{300};  // for frames that still wait, and requests on their way
constexpr milliseconds kLogTime{5000};    // for a disk that takes long
constexpr milliseconds kTurn{20};         // so that a flood does not keep answers waiting
constexpr milliseconds kStatusTime{500};  // for the engine's part of a status
constexpr int64_t kReplayBytes = int64_t{64} << 10;  // that wait for a client, for more of a replay
constexpr size_t kStatusQuestions = 256;             // that wait for it
constexpr milliseconds kIdleTime{1000};              // after which memory goes back,
constexpr milliseconds kBusyTime{15000};             // or this, since it takes milliseconds
constexpr int64_t kSpareDescriptors = 16;
constexpr int64_t kLogDescriptors = 64;  // that a log's files take
constexpr int64_t kLeastClients = 2;     // and one that is told that there is no place
constexpr double kFullSeconds = 5;       // after which a client may find a place

bool IsLoopback(const std::string& endpoint) {
  return endpoint.starts_with("ipc://") || endpoint.starts_with("tcp://127.") ||
         endpoint.starts_with("tcp://[::1]") || endpoint.starts_with("tcp://localhost:");
}

/// Beside those that are open.
int64_t OtherDescriptors(bool has_log) {
  return (has_log ? kLogDescriptors : 0) + kSpareDescriptors;
}

/// Takes no more clients than there are file descriptors for. kFailedPrecondition if there is none.
absl::Status FitClients(bool has_log, int64_t& clients) {
  const int64_t others = OpenDescriptors() + OtherDescriptors(has_log);
  const int64_t left = DescriptorLimit() - others;
  const int64_t wanted = clients + Router::kSurplusConnections;
  if (left >= wanted) return absl::OkStatus();
  if (left < kLeastClients) return CheckDescriptors(others + kLeastClients);
  const int64_t fit = std::min(clients, std::max(left - Router::kSurplusConnections, left / 2));
  if (fit < clients) {
    spdlog::warn(
        "{} at most, instead of {}: this process may have {} file descriptors (ulimit -Hn), and "
        "would need {}",
        Counted(fit, "client is served", "clients are served"), clients, DescriptorLimit(),
        others + wanted);
  }
  clients = fit;
  return absl::OkStatus();
}

}  // namespace

int64_t Server::LeastDescriptors(bool has_log) { return OtherDescriptors(has_log) + kLeastClients; }

absl::StatusOr<std::unique_ptr<Server>> Server::Create(ServerOptions options,
                                                       parallel::Engine& engine,
                                                       const TextModel& model,
                                                       ConversationLog* log) {
  TANDEM_RETURN_IF_ERROR(FitClients(log != nullptr, options.clients));
  const std::string full = fmt::format(
      "{} connected, and no more are taken: come back later, or start the server with a larger "
      "--max-clients",
      Counted(options.clients, "client is", "clients are"));
  TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<Router> router,
                          Router::Bind({.endpoint = options.endpoint,
                                        .listener = options.listener,
                                        .frame_bytes = options.limits.frame_bytes,
                                        .clients = options.clients,
                                        .client_budget_bytes = options.client_budget_bytes},
                                       ErrorFrame("", ErrorCode::kOverloaded, full, kFullSeconds)));
  if (!IsLoopback(router->endpoint())) {
    spdlog::warn(
        "listening on {}: whoever reaches this address can use the model and read the "
        "traffic; there is no encryption or login yet",
        router->endpoint());
  }
  return std::unique_ptr<Server>(
      new Server(std::move(options), std::move(router), engine, model, log));
}

Server::Server(ServerOptions options, std::unique_ptr<Router> router, parallel::Engine& engine,
               const TextModel& model, ConversationLog* log)
    : options_(std::move(options)),
      router_(std::move(router)),
      engine_(engine),
      model_(model),
      log_(log),
      requests_(options_.kept_answers, options_.kept_answer_bytes),
      conversations_(options_.conversations) {
  counts_.model = model_.name();
  counts_.vocab = model_.vocab();
  counts_.context = model_.context();
}

Server::~Server() {
  preparer_.reset();
  figures_.reset();
  // What the engine took meanwhile nobody waits for.
  TakeNews();
  for (const Mailbox::Event& event : news_) {
    const auto* prepared = std::get_if<std::unique_ptr<Prepared>>(&event.what);
    if (prepared == nullptr) continue;
    for (const parallel::RequestId id : (*prepared)->engine_ids) engine_.Cancel(id);
  }
  for (RequestRecord* record : requests_.AllOpen()) CancelInEngine(*record);
}

void Server::Restore(const ConversationName& name, Conversation conversation) {
  conversations_.Restore(name, std::move(conversation));
}

void Server::Stop() {
  stop_.store(true);
  mailbox_->Wake();
}

absl::Status Server::Run() {
  preparer_.emplace(engine_, model_, mailbox_, options_.preparer);
  figures_.emplace(engine_, mailbox_);
  figures_->Ask();
  absl::Status status = Serve();
  for (const auto& [key, turn] : std::exchange(abandoned_, {})) EraseKv(turn);
  return status;
}

absl::Status Server::Serve() {
  while (!ends_at_ || Clock::now() < *ends_at_ ||
         (WaitsForLog() && Clock::now() < *ends_at_ + kLogTime)) {
    router_->Wait(mailbox_->wake_fd(), UntilNextTimer());
    TakeFromMailbox();
    TakeFromClients();
    router_->Flush();
    CancelVanished();
    ContinueReplays();
    CheckTimers();
    CheckEngine();
    ReturnMemory();
    if (stop_.load() && !ends_at_) {
      const bool idle = requests_.open() == 0 && router_->waiting_bytes() == 0 &&
                        commands_.empty() && status_questions_.empty() && replays_.empty();
      if (idle) return absl::OkStatus();
      FailAll("the server is shutting down");
      EndSoon(absl::OkStatus());
    }
  }
  return ends_with_;
}

void Server::EndSoon(absl::Status status) {
  ends_with_ = std::move(status);
  ends_at_ = Clock::now() + kEndingTime;
}

milliseconds Server::UntilNextTimer() const {
  if (!news_.empty() || replays_are_late_) return milliseconds(0);
  Clock::time_point next = next_engine_check_;
  if (ends_at_) next = std::min(next, *ends_at_);
  if (next_timer_) next = std::min(next, *next_timer_);
  const auto wait = std::chrono::ceil<milliseconds>(next - Clock::now());
  return std::clamp(wait, milliseconds(0), kEngineCheckInterval);
}

void Server::CheckEngine() {
  if (ends_at_ || Clock::now() < next_engine_check_) return;
  next_engine_check_ = Clock::now() + kEngineCheckInterval;
  absl::Status health = engine_.Health();
  // While the reason is being found out, the engine itself ends the open requests, with the reason.
  if (health.ok() || absl::IsUnknown(health)) return;
  FailAll(Message(health));
  EndSoon(std::move(health));
}

void Server::ReturnMemory() {
  if (!used_since_) return;
  const milliseconds wait = requests_.open() > 0 ? kBusyTime : kIdleTime;
  if (Clock::now() < *used_since_ + wait) return;
  used_since_.reset();
  (void)malloc_trim(0);
}

void Server::SetTimer(Clock::time_point at) {
  next_timer_ = std::min(next_timer_.value_or(at), at);
}

void Server::CheckTimers() {
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
      CancelInEngine(*record);
      ++counts_.cancelled_requests;
      DropRequest(*record);
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

void Server::TakeNews() {
  std::vector<Mailbox::Event> events = mailbox_->Take();
  news_.insert(news_.end(), std::make_move_iterator(events.begin()),
               std::make_move_iterator(events.end()));
}

void Server::TakeFromMailbox() {
  TakeNews();
  if (!news_.empty() && !used_since_) used_since_ = Clock::now();
  const Clock::time_point end = Clock::now() + kTurn;
  while (!news_.empty()) {
    Mailbox::Event event = std::move(news_.front());
    news_.pop_front();
    Take(std::move(event));
    if (Clock::now() >= end) return;
  }
}

void Server::Take(Mailbox::Event event) {
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
  } else {
    Take(*record, event.choice, std::get<std::vector<int32_t>>(event.what));
  }
}

void Server::TakeFromClients() {
  const Clock::time_point end = Clock::now() + kTurn;
  do {
    std::optional<Router::Incoming> incoming = router_->Receive(end);
    CancelVanished();
    if (!incoming) return;
    Handle(*incoming);
  } while (Clock::now() < end);
}

void Server::CancelVanished() {
  for (const std::string& client : router_->TakeVanished()) Vanished(client);
}

void Server::Handle(const Router::Incoming& incoming) {
  if (!used_since_) used_since_ = Clock::now();
  if (incoming.oversized > 0) {
    Refuse({incoming.client, IdIn(incoming.frame, options_.limits)}, ErrorCode::kTooLarge,
           TooLarge(incoming.oversized, options_.limits));
    return;
  }
  if (!incoming.single) {
    Refuse({incoming.client, ""}, ErrorCode::kInvalidArgument,
           "the message has several frames (or none): send one frame with one JSON object");
    return;
  }
  std::variant<Request, RequestError> parsed = ParseRequest(incoming.frame, options_.limits);
  if (const auto* error = std::get_if<RequestError>(&parsed)) {
    Refuse({incoming.client, error->id}, error->code, error->message);
    return;
  }
  auto& request = std::get<Request>(parsed);
  const RequestName name{.client = incoming.client, .id = request.id};
  TellUnknown(request.unknown_fields);
  if (std::holds_alternative<GenerateRequest>(request.body)) {
    HandleGenerate(name, std::move(request));
    return;
  }
  std::visit(
      [&](const auto& body) {
        using Body = std::decay_t<decltype(body)>;
        if constexpr (std::is_same_v<Body, PingRequest>) {
          router_->Send(name.client, PongFrame(name.id, !ends_at_ && engine_.Health().ok()));
        } else if constexpr (std::is_same_v<Body, StatusRequest>) {
          HandleStatus(name);
        } else if constexpr (std::is_same_v<Body, CancelRequest>) {
          HandleCancel(name);
        } else if constexpr (std::is_same_v<Body, ResumeRequest>) {
          HandleResume(name, body);
        } else if constexpr (!std::is_same_v<Body, GenerateRequest>) {
          Handle(name, body);
        }
      },
      request.body);
}

void Server::TellUnknown(const UnknownFields& fields) {
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

void Server::HandleStatus(const RequestName& name) {
  status_questions_.push_back(
      {.name = name, .number = figures_->Ask(), .until = Clock::now() + kStatusTime});
  if (status_questions_.size() > kStatusQuestions) {
    AnswerStatus(/*answers=*/Clock::now() - engine_status_at_ < kStatusTime);
  }
  SetTimer(status_questions_.front().until);
}

void Server::TakeFigures(Mailbox::EngineAnswer answer) {
  const bool ok = answer.status.ok();
  if (ok) {
    engine_status_ = *std::move(answer.status);
    engine_status_at_ = Clock::now();
  }
  while (!status_questions_.empty() && status_questions_.front().number <= answer.number) {
    // An engine that is dead is no engine whose figures are of use.
    if (const absl::Status health = engine_.Health(); !ok && !health.ok()) {
      Refuse(status_questions_.front().name, answer.status.status());
      status_questions_.pop_front();
    } else {
      AnswerStatus(ok);
    }
  }
}

void Server::AnswerStatus(bool answers) {
  const RequestName name = std::move(status_questions_.front().name);
  status_questions_.pop_front();
  const auto seconds = [](Clock::duration time) {
    return std::chrono::duration<double>(time).count();
  };
  counts_.engine_answers = answers;
  counts_.engine_figures_age_seconds = seconds(Clock::now() - engine_status_at_);
  counts_.clients = router_->clients();
  counts_.open_requests = requests_.open();
  counts_.conversations = conversations_.count();
  counts_.conversation_bytes = conversations_.bytes();
  counts_.damaged_conversations = conversations_.damaged();
  if (log_ != nullptr) counts_.state = log_->Status();
  counts_.uptime_seconds = seconds(Clock::now() - started_);
  router_->Send(name.client, StatusFrame(name.id, counts_, engine_status_));
}

void Server::ContinueReplays() {
  const Clock::time_point end = Clock::now() + kTurn;
  replays_are_late_ = false;
  for (size_t unread = 0; unread < replays_.size();) {
    if (Clock::now() >= end) {
      replays_are_late_ = true;
      return;
    }
    const RequestName name = std::move(replays_.front());
    replays_.pop_front();
    RequestRecord* record = requests_.Find(name);
    if (record == nullptr) {
      Refuse(
          name, ErrorCode::kNotFound,
          "resume: the answer was too long ago, and is not kept any more: send the request again");
    }
    if (record == nullptr || !record->replay) continue;
    const bool reads = router_->WaitingFor(name.client) <= kReplayBytes;
    unread = reads ? 0 : unread + 1;
    if (!reads || SendPart(*record)) replays_.push_back(name);
  }
}

void Server::HandleCancel(const RequestName& name) {
  RequestRecord* record = requests_.Find(name);
  if (record == nullptr) {
    Refuse(name, ErrorCode::kNotFound,
           fmt::format("cancel: this connection has no request \"{}\"", name.id));
  } else if (!record->open()) {
    router_->Send(name.client, record->done_frame, /*must=*/true);
  } else {
    record->detached_until.reset();  // whoever cancels is there
    record->cancelled = true;
    CancelInEngine(*record);  // its done comes when the engine has let go of it
  }
}

void Server::FailAll(std::string_view message) {
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

void Server::Refuse(const RequestName& name, ErrorCode code, std::string_view message) {
  ++counts_.refused[code];
  router_->Send(name.client, ErrorFrame(name.id, code, message));
}

void Server::Refuse(const RequestName& name, const absl::Status& status) {
  ++counts_.refused[ErrorCodeOf(status)];
  router_->Send(name.client,
                ErrorFrame(name.id, ErrorCodeOf(status), Message(status), RetryAfter(status)));
}

}  // namespace tandem::frontend
