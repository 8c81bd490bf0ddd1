#include "frontend/server.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

namespace tandem::frontend {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kEngineCheckInterval{250};
constexpr milliseconds kEndingTime{300};  // for frames that still wait, and requests on their way
constexpr int kMessagesATurn = 64;        // so that a flood does not keep answers waiting

constexpr std::string_view kTooSlow =
    "cancelled, because this client does not read its answers and its byte budget is used up: read "
    "while they come, then send the request again";

/// Names that ROUTER makes up begin with a zero byte, and never come back after a disconnect.
bool IsMadeUpName(const std::string& client) { return client.empty() || client[0] == '\0'; }

bool IsLoopback(const std::string& endpoint) {
  return endpoint.starts_with("ipc://") || endpoint.starts_with("tcp://127.") ||
         endpoint.starts_with("tcp://[::1]") || endpoint.starts_with("tcp://localhost:");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Create(ServerOptions options,
                                                       parallel::Engine& engine,
                                                       const TextModel& model) {
  TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<Router> router,
                          Router::Bind({.endpoint = options.endpoint,
                                        .frame_bytes = options.limits.frame_bytes,
                                        .client_budget_bytes = options.client_budget_bytes}));
  if (!IsLoopback(router->endpoint())) {
    spdlog::warn(
        "listening on {}: whoever reaches this address can use the model and read the "
        "traffic; there is no encryption or login yet",
        router->endpoint());
  }
  return std::unique_ptr<Server>(new Server(std::move(options), std::move(router), engine, model));
}

Server::Server(ServerOptions options, std::unique_ptr<Router> router, parallel::Engine& engine,
               const TextModel& model)
    : options_(std::move(options)),
      router_(std::move(router)),
      engine_(engine),
      model_(model),
      requests_(options_.kept_answers, options_.kept_answer_bytes) {
  counts_.model = model_.name();
  counts_.vocab = model_.vocab();
  counts_.context = model_.context();
}

Server::~Server() {
  for (RequestRecord* record : requests_.AllOpen()) engine_.Cancel(record->engine_id);
}

void Server::Stop() {
  stop_.store(true);
  mailbox_->Wake();
}

absl::Status Server::Run() {
  while (!ends_at_ || (Clock::now() < *ends_at_)) {
    router_->Wait(mailbox_->wake_fd(), UntilNextTimer());
    TakeFromEngine();
    TakeFromClients();
    router_->Flush();
    CancelVanished();
    CheckDeadlines();
    CheckEngine();
    if (stop_.load() && !ends_at_) {
      const bool idle = requests_.open() == 0 && router_->waiting_bytes() == 0;
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
  Clock::time_point next = next_engine_check_;
  if (ends_at_) next = std::min(next, *ends_at_);
  if (next_deadline_) next = std::min(next, *next_deadline_);
  const auto wait = std::chrono::ceil<milliseconds>(next - Clock::now());
  return std::clamp(wait, milliseconds(0), kEngineCheckInterval);
}

void Server::CheckEngine() {
  if (ends_at_ || Clock::now() < next_engine_check_) return;
  next_engine_check_ = Clock::now() + kEngineCheckInterval;
  absl::Status health = engine_.Health();
  // While the reason is being found out, the engine itself ends the open requests, with the reason.
  if (health.ok() || absl::IsUnknown(health)) return;
  spdlog::error("the engine is dead: {}", Message(health));
  FailAll(Message(health));
  EndSoon(std::move(health));
}

void Server::CheckDeadlines() {
  const Clock::time_point now = Clock::now();
  if (!next_deadline_ || now < *next_deadline_) return;
  next_deadline_.reset();
  for (RequestRecord* record : requests_.AllOpen()) {
    if (!record->deadline) continue;
    if (now >= *record->deadline) {
      engine_.Cancel(record->engine_id);
      Fail(*record, ErrorCode::kDeadlineExceeded,
           "the request's deadline passed before its answer was complete");
    } else if (!next_deadline_ || *record->deadline < *next_deadline_) {
      next_deadline_ = record->deadline;
    }
  }
}

void Server::TakeFromEngine() {
  for (const Mailbox::Event& event : mailbox_->Take()) {
    // Events of requests that were dropped meanwhile find nobody.
    RequestRecord* record = requests_.FindOpen(event.key);
    if (record == nullptr) continue;
    if (const auto* finish = std::get_if<parallel::Finish>(&event.what)) {
      Finish(*record, *finish);
      continue;
    }
    const std::string delta = record->writer->Append(std::get<std::vector<int32_t>>(event.what));
    if (!Deliver(*record, delta)) continue;
    if (record->writer->stopped() && !record->cancelled) {
      record->cancelled = true;
      engine_.Cancel(record->engine_id);
    }
  }
}

void Server::TakeFromClients() {
  for (int i = 0; i < kMessagesATurn; ++i) {
    std::optional<Router::Incoming> incoming = router_->Receive();
    CancelVanished();
    if (!incoming) return;
    Handle(*std::move(incoming));
  }
}

void Server::CancelVanished() {
  for (const std::string& client : router_->TakeVanished()) Drop(client);
}

void Server::Handle(Router::Incoming incoming) {
  const std::string& client = incoming.client;
  if (!incoming.single) {
    Refuse(client, std::nullopt, ErrorCode::kInvalidArgument,
           "the message has several frames (or none): send one frame with one JSON object");
    return;
  }
  std::variant<Request, RequestError> parsed = ParseRequest(incoming.frame, options_.limits);
  if (const auto* error = std::get_if<RequestError>(&parsed)) {
    Refuse(client, error->id, error->code, error->message);
    return;
  }
  auto& request = std::get<Request>(parsed);
  if (std::holds_alternative<PingRequest>(request.body)) {
    router_->Send(client, PongFrame(request.id, !ends_at_ && engine_.Health().ok()));
  } else if (std::holds_alternative<StatusRequest>(request.body)) {
    HandleStatus(client, request.id);
  } else if (std::holds_alternative<CancelRequest>(request.body)) {
    HandleCancel(client, request.id);
  } else {
    HandleGenerate(client, std::move(request));
  }
}

void Server::HandleStatus(const std::string& client, const std::string& id) {
  const absl::StatusOr<parallel::EngineStatus> engine = engine_.Status();
  if (!engine.ok()) {
    Refuse(client, id.empty() ? std::nullopt : std::optional(id), ErrorCodeOf(engine.status()),
           Message(engine.status()));
    return;
  }
  counts_.clients = router_->clients();
  counts_.open_requests = requests_.open();
  counts_.uptime_seconds = std::chrono::duration<double>(Clock::now() - started_).count();
  router_->Send(client, StatusFrame(id, counts_, *engine));
}

void Server::HandleCancel(const std::string& client, const std::string& id) {
  RequestRecord* record = requests_.Find(client, id);
  if (record == nullptr) {
    Refuse(client, id, ErrorCode::kNotFound,
           fmt::format("cancel: this connection has no request \"{}\"", id));
  } else if (!record->open()) {
    router_->Send(client, record->done_frame, /*must=*/true);
  } else if (!record->cancelled) {
    record->cancelled = true;
    engine_.Cancel(record->engine_id);  // its done comes when the engine has let go of it
  }
}

void Server::HandleGenerate(const std::string& client, Request request) {
  if (const RequestRecord* known = requests_.Find(client, request.id); known != nullptr) {
    if (known->fingerprint == request.fingerprint) {
      Replay(*known);
    } else {
      Refuse(client, request.id, ErrorCode::kInvalidArgument,
             fmt::format("id: \"{}\" is already the name of another request on this connection; "
                         "give each request an id of its own",
                         request.id));
    }
    return;
  }
  if (requests_.open() >= options_.open_requests ||
      requests_.OpenCount(client) >= options_.open_requests_per_client) {
    Refuse(client, request.id, ErrorCode::kOverloaded,
           fmt::format("{} requests are open ({} of this client), at most {} ({}) are taken: wait "
                       "for an answer, then send again",
                       requests_.open(), requests_.OpenCount(client), options_.open_requests,
                       options_.open_requests_per_client));
    return;
  }
  RequestRecord& record = requests_.Add(client, request.id);
  record.fingerprint = request.fingerprint;
  const absl::Status started = Start(record, std::move(std::get<GenerateRequest>(request.body)));
  if (!started.ok()) {
    requests_.Erase(record);
    Refuse(client, request.id, ErrorCodeOf(started), Message(started));
    return;
  }
  if (router_->Send(client, AcceptedFrame(request.id)) == Router::Delivery::kGone) Drop(client);
}

absl::Status Server::Start(RequestRecord& record, GenerateRequest request) {
  std::vector<int32_t> prompt;
  if (const auto* messages = std::get_if<0>(&request.input)) {
    TANDEM_ASSIGN_OR_RETURN(prompt, model_.EncodeChat(*messages));
    const auto stops = model_.chat_stop_strings();
    request.params.stop.insert(request.params.stop.end(), stops.begin(), stops.end());
  } else if (const auto* text = std::get_if<1>(&request.input)) {
    TANDEM_ASSIGN_OR_RETURN(prompt, model_.EncodeText(*text));
  } else {
    prompt = std::move(std::get<2>(request.input));
  }
  TANDEM_ASSIGN_OR_RETURN(parallel::EngineRequest work,
                          MakeEngineRequest(model_, std::move(prompt), request.params));
  if (work.sampling.temperature > 0) record.seed = work.sampling.seed;
  record.writer.emplace(model_.NewStream(), std::move(request.params.stop));
  if (request.deadline_seconds) {
    record.deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                         std::chrono::duration<double>(*request.deadline_seconds));
    next_deadline_ = std::min(next_deadline_.value_or(*record.deadline), *record.deadline);
  }
  parallel::EngineSink sink;
  sink.on_tokens = [mailbox = mailbox_, key = record.key](std::span<const int32_t> tokens) {
    mailbox->PutTokens(key, tokens);
  };
  sink.on_finish = [mailbox = mailbox_, key = record.key](const parallel::Finish& finish) {
    mailbox->PutFinish(key, finish);
  };
  TANDEM_ASSIGN_OR_RETURN(record.engine_id, engine_.Submit(std::move(work), std::move(sink)));
  return absl::OkStatus();
}

void Server::Replay(const RequestRecord& record) {
  const std::string client = record.client;
  Router::Delivery delivery = router_->Send(client, AcceptedFrame(record.id));
  size_t begin = 0;
  for (size_t seq = 0; seq < record.delta_ends.size(); ++seq) {
    if (delivery != Router::Delivery::kSent) break;
    const size_t end = record.delta_ends[seq];
    delivery = router_->Send(client, DeltaFrame(record.id, static_cast<int64_t>(seq),
                                                record.text.substr(begin, end - begin)));
    begin = end;
  }
  if (delivery == Router::Delivery::kSent && !record.open()) {
    delivery = router_->Send(client, record.done_frame);
  }
  if (delivery == Router::Delivery::kGone) Drop(client);
  if (delivery == Router::Delivery::kOverBudget) {
    if (!record.open())
      router_->Send(client, ErrorFrame(record.id, ErrorCode::kCancelled, kTooSlow), /*must=*/true);
    CancelSlow(client);
  }
}

bool Server::Deliver(RequestRecord& record, std::string_view text) {
  if (text.empty()) return true;
  record.text += text;
  const auto seq = static_cast<int64_t>(record.delta_ends.size());
  record.delta_ends.push_back(record.text.size());
  const std::string client = record.client;
  switch (router_->Send(client, DeltaFrame(record.id, seq, text))) {
    case Router::Delivery::kSent:
      return true;
    case Router::Delivery::kGone:
      Drop(client);
      return false;
    case Router::Delivery::kOverBudget:
      CancelSlow(client);
      return false;
  }
  return false;
}

void Server::Finish(RequestRecord& record, const parallel::Finish& finish) {
  const bool failed = finish.reason == parallel::FinishReason::kFailed && !record.writer->stopped();
  if (failed) {
    const bool known = !finish.status.ok();
    Fail(record, known ? ErrorCodeOf(finish.status) : ErrorCode::kInternal,
         known ? Message(finish.status) : "the engine gave up on this request without a reason");
    next_engine_check_ = Clock::now();  // was it this request, or the engine?
    return;
  }
  if (!Deliver(record, record.writer->Finish())) return;
  Answer answer = record.writer->Result(finish);
  answer.seed = record.seed;
  const bool cancelled = answer.reason == parallel::FinishReason::kCancelled;
  ++(cancelled ? counts_.cancelled_requests : counts_.answered_requests);
  const std::string client = record.client;
  std::string frame = DoneFrame(record.id, answer);
  requests_.Finish(record, frame);
  if (router_->Send(client, std::move(frame), /*must=*/true) == Router::Delivery::kGone) {
    Drop(client);
  }
}

void Server::Fail(RequestRecord& record, ErrorCode code, std::string_view message) {
  ++counts_.failed_requests;
  const std::string client = record.client;
  std::string frame = ErrorFrame(record.id, code, message);
  requests_.Erase(record);
  if (router_->Send(client, std::move(frame), /*must=*/true) == Router::Delivery::kGone) {
    Drop(client);
  }
}

void Server::FailAll(std::string_view message) {
  std::vector<uint64_t> keys;
  for (const RequestRecord* record : requests_.AllOpen()) keys.push_back(record->key);
  for (const uint64_t key : keys) {
    // Failing one may show that its client is gone, with all its other requests.
    RequestRecord* record = requests_.FindOpen(key);
    if (record == nullptr) continue;
    engine_.Cancel(record->engine_id);
    Fail(*record, ErrorCode::kUnavailable, message);
  }
}

void Server::Drop(const std::string& client) {
  for (RequestRecord* record : requests_.OpenOf(client)) {
    engine_.Cancel(record->engine_id);
    ++counts_.cancelled_requests;
    requests_.Erase(*record);
  }
  if (IsMadeUpName(client)) requests_.ForgetAnswersOf(client);
}

void Server::CancelSlow(const std::string& client) {
  std::vector<uint64_t> keys;
  for (const RequestRecord* record : requests_.OpenOf(client)) keys.push_back(record->key);
  spdlog::warn("a client does not read its answers: cancelled its {} requests", keys.size());
  for (const uint64_t key : keys) {
    RequestRecord* record = requests_.FindOpen(key);
    if (record == nullptr) continue;
    engine_.Cancel(record->engine_id);
    Fail(*record, ErrorCode::kCancelled, kTooSlow);
  }
}

void Server::Refuse(const std::string& client, const std::optional<std::string>& id, ErrorCode code,
                    std::string_view message) {
  ++counts_.refused_frames;
  router_->Send(client, ErrorFrame(id, code, message));
}

}  // namespace tandem::frontend
