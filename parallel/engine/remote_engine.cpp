#include "parallel/engine/remote_engine.h"

#include <limits>
#include <utility>

#include "core/base/overloaded.h"

namespace tandem::parallel {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kConnectInterval{50};
constexpr std::chrono::milliseconds kRetryInterval{5};
constexpr int kLingerMilliseconds = 500;

}  // namespace

absl::StatusOr<std::unique_ptr<RemoteEngine>> RemoteEngine::Connect(
    Options options, const std::function<absl::Status()>& keep_waiting) {
  const std::string endpoint = options.endpoint;
  try {
    std::unique_ptr<RemoteEngine> engine(new RemoteEngine(std::move(options)));
    TANDEM_RETURN_IF_ERROR(engine->Handshake(keep_waiting));
    engine->thread_ = std::thread([self = engine.get()] { self->Run(); });
    return engine;
  } catch (const std::exception& error) {
    return Unavailable("engine link: cannot connect to {}: {}", endpoint, error.what());
  }
}

RemoteEngine::RemoteEngine(Options options)
    : options_(std::move(options)),
      dealer_(context_, zmq::socket_type::dealer),
      server_(options_.limits) {
  kv_store::SetSafeOptions(dealer_, options_.limits);
  // Until the server is there.
  dealer_.set(zmq::sockopt::reconnect_ivl, static_cast<int>(kConnectInterval.count()));
  kv_store::BeCurveClient(dealer_, options_.keys, options_.server_key);
  dealer_.set(zmq::sockopt::routing_id, std::string("gateway"));
  monitor_ = std::make_unique<kv_store::DisconnectMonitor>(context_, dealer_);
  dealer_.connect(options_.endpoint);
}

absl::Status RemoteEngine::Handshake(const std::function<absl::Status()>& keep_waiting) {
  const std::vector<std::byte> hello = EncodeLinkMessage(LinkHello{});
  if (kv_store::TrySend(dealer_, "", hello) != kv_store::SendOutcome::kSent) {
    return Unavailable("engine link: {} takes no message", options_.endpoint);
  }
  zmq::pollitem_t items[] = {{dealer_.handle(), 0, ZMQ_POLLIN, 0}};
  for (;;) {
    if (keep_waiting) TANDEM_RETURN_IF_ERROR(keep_waiting());
    monitor_->TakeDisconnected();
    if (zmq::poll(items, 1, kConnectInterval) == 0) continue;
    zmq::message_t frame;
    if (!dealer_.recv(frame, zmq::recv_flags::dontwait)) continue;
    TANDEM_ASSIGN_OR_RETURN(const LinkMessage message, DecodeLinkMessage(kv_store::BytesOf(frame)));
    const auto* welcome = std::get_if<LinkWelcome>(&message);
    if (welcome == nullptr) {
      return Internal("engine link: {} answered without a welcome", options_.endpoint);
    }
    if (welcome->epoch != options_.epoch) {
      return FailedPrecondition(
          "engine link: {} belongs to epoch {}, expected {}; it is of another start", options_.who,
          welcome->epoch, options_.epoch);
    }
    // From here on a broken connection means that the engine's process is gone.
    return absl::OkStatus();
  }
}

RemoteEngine::~RemoteEngine() {
  {
    const MutexLock lock(mutex_);
    closing_ = true;
    if (health_.ok()) health_ = Unavailable("the link to the engine was closed");
    changed_.NotifyAll();
  }
  wake_.Signal();
  if (thread_.joinable()) thread_.join();
  FinishAll(Health());
}

void RemoteEngine::Queue(const LinkMessage& message) {
  std::vector<std::byte> frame = EncodeLinkMessage(message);
  {
    const MutexLock lock(mutex_);
    outgoing_.push_back(std::move(frame));
  }
  wake_.Signal();
}

absl::StatusOr<RequestId> RemoteEngine::Submit(EngineRequest request, EngineSink sink) {
  auto entry = std::make_shared<Request>();
  entry->sink = std::move(sink);
  RequestId id = 0;
  {
    const MutexLock lock(mutex_);
    if (!health_.ok()) return health_;
    if (broken_) return Unavailable("the engine is gone; the reason is not known yet");
    id = next_id_++;
    requests_[id] = entry;
  }
  Queue(LinkSubmit{.id = id, .request = std::move(request)});
  MutexLock lock(mutex_);
  const auto deadline = Clock::now() + options_.answer_patience;
  while (!entry->answered && health_.ok() && changed_.WaitUntil(mutex_, deadline)) {
  }
  if (entry->answered && entry->refused.ok()) return id;
  requests_.erase(id);
  if (!entry->refused.ok()) return entry->refused;
  if (!health_.ok()) return health_;
  lock.Unlock();
  Queue(LinkCancel{.id = id});
  return Unavailable("the engine did not answer within {} ms", options_.answer_patience.count());
}

void RemoteEngine::Cancel(RequestId id) { Queue(LinkCancel{.id = id}); }

absl::StatusOr<EngineStatus> RemoteEngine::Status() {
  auto query = std::make_shared<Query>();
  uint64_t number = 0;
  {
    const MutexLock lock(mutex_);
    if (!health_.ok()) return health_;
    number = next_id_++;
    queries_[number] = query;
  }
  Queue(LinkStatusQuery{.query = number});
  const auto deadline = Clock::now() + options_.answer_patience;
  const MutexLock lock(mutex_);
  while (!query->answer && health_.ok() && changed_.WaitUntil(mutex_, deadline)) {
  }
  queries_.erase(number);
  if (query->answer) return *std::move(query->answer);
  if (!health_.ok()) return health_;
  return Unavailable("the engine did not answer within {} ms", options_.answer_patience.count());
}

absl::Status RemoteEngine::Health() {
  const MutexLock lock(mutex_);
  if (health_.ok() && broken_) {
    return absl::UnknownError("the engine is gone; the reason is not known yet");
  }
  return health_;
}

void RemoteEngine::MarkDead(const absl::Status& why) {
  {
    const MutexLock lock(mutex_);
    if (reason_.ok()) reason_ = why;
  }
  wake_.Signal();
}

void RemoteEngine::RequestStop() { Queue(LinkStop{}); }

void RemoteEngine::Run() {
  try {
    for (;;) {
      PollOnce();
      const MutexLock lock(mutex_);
      if (closing_ && (outgoing_.empty() || broken_)) break;
    }
    monitor_.reset();
    dealer_.set(zmq::sockopt::linger, kLingerMilliseconds);
    dealer_.close();
  } catch (const std::exception& error) {
    FinishAll(Internal("engine link: {}", error.what()));
  }
}

void RemoteEngine::PollOnce() {
  zmq::pollitem_t items[] = {{nullptr, wake_.fd(), ZMQ_POLLIN, 0},
                             {dealer_.handle(), 0, ZMQ_POLLIN, 0},
                             {monitor_->socket().handle(), 0, ZMQ_POLLIN, 0}};
  std::chrono::milliseconds timeout = options_.limits.heartbeat;
  {
    const MutexLock lock(mutex_);
    if (!outgoing_.empty() || (broken_ && health_.ok())) timeout = kRetryInterval;
  }
  zmq::poll(items, std::size(items), timeout);
  if (kv_store::Readable(items[0])) wake_.Clear();
  if (kv_store::Readable(items[1])) Receive(kFramesInARow);
  SendQueued();
  if (kv_store::Readable(items[2]) && monitor_->TakeDisconnected() && !broken_since_) {
    broken_since_ = Clock::now();
    Receive(std::numeric_limits<int>::max());  // what came before the end
    const MutexLock lock(mutex_);
    broken_ = true;
  }
  if (!broken_since_) server_.Tick();
  MaybeDie();
  TellGone();
}

void RemoteEngine::TellGone() {
  {
    const MutexLock lock(mutex_);
    if (told_gone_ || (!broken_ && reason_.ok() && health_.ok())) return;
  }
  told_gone_ = true;
  if (options_.on_gone) options_.on_gone();
}

void RemoteEngine::SendQueued() {
  for (;;) {
    std::vector<std::byte> frame;
    {
      const MutexLock lock(mutex_);
      if (outgoing_.empty()) return;
      if (broken_) return outgoing_.clear();
      frame = outgoing_.front();
    }
    if (kv_store::TrySend(dealer_, "", frame) != kv_store::SendOutcome::kSent) return;
    const MutexLock lock(mutex_);
    outgoing_.pop_front();
  }
}

void RemoteEngine::Receive(int most_frames) {
  for (int frames = 0; frames < most_frames; ++frames) {
    zmq::message_t frame;
    if (!dealer_.recv(frame, zmq::recv_flags::dontwait)) return;
    server_.Heard();
    absl::StatusOr<LinkMessage> message = DecodeLinkMessage(kv_store::BytesOf(frame));
    if (message.ok()) {
      Handle(*std::move(message));
    } else {
      MarkDead(message.status());
    }
  }
}

std::shared_ptr<RemoteEngine::Request> RemoteEngine::Find(RequestId id) {
  const MutexLock lock(mutex_);
  const auto found = requests_.find(id);
  return found == requests_.end() ? nullptr : found->second;
}

void RemoteEngine::Handle(LinkMessage message) {
  const auto answer = [this](RequestId id, const absl::Status& refused) {
    const MutexLock lock(mutex_);
    const auto found = requests_.find(id);
    if (found == requests_.end()) return;
    found->second->answered = true;
    found->second->refused = refused;
    changed_.NotifyAll();
  };
  std::visit(
      core::Overloaded{[&](const LinkAccepted& accepted) { answer(accepted.id, absl::OkStatus()); },
                       [&](const LinkRefused& refused) { answer(refused.id, refused.status); },
                       [&](const LinkAdmitted& admitted) {
                         const auto request = Find(admitted.id);
                         if (request && request->sink.on_admitted) request->sink.on_admitted();
                       },
                       [&](const LinkTokens& result) {
                         const auto request = Find(result.id);
                         if (request && request->sink.on_tokens)
                           request->sink.on_tokens(result.tokens);
                       },
                       [&](const LinkLogits& result) {
                         const auto request = Find(result.id);
                         if (request && request->sink.on_logits) {
                           request->sink.on_logits(result.position, result.logits);
                         }
                       },
                       [&](const LinkLogprobs& result) {
                         const auto request = Find(result.id);
                         if (request && request->sink.on_logprobs) {
                           request->sink.on_logprobs(result.position, result.logprobs);
                         }
                       },
                       [&](const LinkFinish& result) {
                         const auto request = Find(result.id);
                         if (!request) return;
                         {
                           const MutexLock lock(mutex_);
                           requests_.erase(result.id);
                         }
                         if (request->sink.on_finish) request->sink.on_finish(result.finish);
                       },
                       [&](LinkStatus& status) {
                         const MutexLock lock(mutex_);
                         const auto found = queries_.find(status.query);
                         if (found == queries_.end()) return;
                         if (status.error.ok()) {
                           found->second->answer = std::move(status.status);
                         } else {
                           found->second->answer = status.error;
                         }
                         changed_.NotifyAll();
                       },
                       [&](const LinkDead& dead) { MarkDead(dead.why); },
                       [](const auto&) {}},  // pings, and what only a client says
      message);
}

void RemoteEngine::MaybeDie() {
  absl::Status why;
  {
    const MutexLock lock(mutex_);
    if (!health_.ok()) return;
    const bool ended =
        !reason_.ok() || (broken_since_ && Clock::now() - *broken_since_ >= options_.reason_wait);
    if (server_.silent() || (ended && server_.suspect())) {
      why = Unavailable("{} {}", options_.who, server_.Text());
    } else if (!reason_.ok()) {
      why = reason_;
    } else if (ended) {
      why = Unavailable("{} at {} died or was disconnected", options_.who, options_.endpoint);
    } else {
      return;
    }
    health_ = why;
    changed_.NotifyAll();
  }
  FinishAll(why);
}

void RemoteEngine::FinishAll(const absl::Status& why) {
  std::vector<std::shared_ptr<Request>> ended;
  {
    const MutexLock lock(mutex_);
    if (health_.ok()) health_ = why;
    for (const auto& [id, request] : std::exchange(requests_, {})) {
      // Whoever still waits in Submit gets the error there.
      if (request->answered && request->refused.ok()) ended.push_back(request);
    }
    changed_.NotifyAll();
  }
  for (const auto& request : ended) {
    if (!request->sink.on_finish) continue;
    request->sink.on_finish(
        {.reason = FinishReason::kFailed, .status = why, .engine_died = true, .usage = {}});
  }
}

}  // namespace tandem::parallel
