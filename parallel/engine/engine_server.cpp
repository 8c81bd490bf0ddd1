#include "parallel/engine/engine_server.h"

#include <unordered_set>
#include <utility>

#include "core/base/overloaded.h"

namespace tandem::parallel {
namespace {

constexpr std::chrono::milliseconds kSoon{5};
// How often the engine is asked whether it lives.
constexpr std::chrono::milliseconds kHealthInterval{200};
constexpr std::chrono::milliseconds kLinger{1000};

}  // namespace

/// What the engine's threads leave for the server's thread to send. Thread safety: all methods.
class EngineServer::Outbox {
 public:
  explicit Outbox(size_t most_bytes) : most_bytes_(most_bytes) {}

  /// A result; if too much is unsent already, `id` is noted as overflown instead.
  void PutResult(RequestId id, const LinkMessage& message) {
    std::vector<std::byte> frame = EncodeLinkMessage(message);
    const MutexLock lock(mutex_);
    if (overflown_.contains(id)) return;
    if (bytes_ + frame.size() > most_bytes_) {
      overflown_.insert(id);
      new_overflows_.push_back(id);
    } else {
      bytes_ += frame.size();
      frames_.push_back(std::move(frame));
    }
    wake_.Signal();
  }
  /// The end of a request, which always finds room.
  void PutFinish(RequestId id, const Finish& finish) {
    std::vector<std::byte> frame = EncodeLinkMessage(LinkFinish{.id = id, .finish = finish});
    const MutexLock lock(mutex_);
    finished_.push_back(id);
    if (overflown_.erase(id) > 0) return;  // the client was told already
    bytes_ += frame.size();
    frames_.push_back(std::move(frame));
    wake_.Signal();
  }

  /// The oldest frame, empty if there is none.
  std::vector<std::byte> Take() {
    const MutexLock lock(mutex_);
    if (frames_.empty()) return {};
    std::vector<std::byte> frame = std::move(frames_.front());
    frames_.pop_front();
    bytes_ -= frame.size();
    return frame;
  }
  void PutBack(std::vector<std::byte> frame) {
    const MutexLock lock(mutex_);
    bytes_ += frame.size();
    frames_.push_front(std::move(frame));
  }
  bool empty() const {
    const MutexLock lock(mutex_);
    return frames_.empty();
  }
  void Clear() {
    const MutexLock lock(mutex_);
    frames_.clear();
    bytes_ = 0;
  }
  std::vector<RequestId> TakeOverflows() {
    const MutexLock lock(mutex_);
    return std::exchange(new_overflows_, {});
  }
  std::vector<RequestId> TakeFinished() {
    const MutexLock lock(mutex_);
    return std::exchange(finished_, {});
  }
  const kv_store::WakeUp& wake() const { return wake_; }

 private:
  const size_t most_bytes_;
  kv_store::WakeUp wake_;
  mutable Mutex mutex_;
  std::deque<std::vector<std::byte>> frames_ ABSL_GUARDED_BY(mutex_);
  size_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::unordered_set<RequestId> overflown_ ABSL_GUARDED_BY(mutex_);
  std::vector<RequestId> new_overflows_ ABSL_GUARDED_BY(mutex_);
  std::vector<RequestId> finished_ ABSL_GUARDED_BY(mutex_);
};

absl::StatusOr<std::unique_ptr<EngineServer>> EngineServer::Create(Options options,
                                                                   Engine& engine) {
  const std::string endpoint = options.address.endpoint;
  try {
    std::unique_ptr<EngineServer> server(new EngineServer(std::move(options), engine));
    server->router_.bind(endpoint);
    server->endpoint_ = server->router_.get(zmq::sockopt::last_endpoint);
    server->thread_ = std::thread([self = server.get()] { self->Run(); });
    return server;
  } catch (const std::exception& error) {
    return Unavailable("engine link: cannot listen at {}: {}", endpoint, error.what());
  }
}

EngineServer::EngineServer(Options options, Engine& engine)
    : options_(std::move(options)),
      engine_(engine),
      outbox_(std::make_shared<Outbox>(options_.most_unsent)),
      allowed_(context_, {{options_.address.client_key, "gateway"}}),
      router_(context_, zmq::socket_type::router),
      liveness_(options_.limits) {
  kv_store::SetSafeOptions(router_, options_.limits);
  kv_store::BeCurveServer(router_, options_.address.keys);
  router_.set(zmq::sockopt::router_mandatory, true);
  monitor_ = std::make_unique<kv_store::DisconnectMonitor>(context_, router_);
}

EngineServer::~EngineServer() {
  {
    const MutexLock lock(mutex_);
    closing_ = true;
  }
  outbox_->wake().Signal();
  if (thread_.joinable()) thread_.join();
}

absl::Status EngineServer::Wait() {
  const MutexLock lock(mutex_);
  while (!ended_) changed_.Wait(mutex_);
  return end_;
}

void EngineServer::End(const absl::Status& why) {
  const MutexLock lock(mutex_);
  if (ended_) return;
  ended_ = true;
  end_ = why;
  changed_.NotifyAll();
}

void EngineServer::Run() {
  try {
    for (;;) {
      PollOnce();
      const MutexLock lock(mutex_);
      if (closing_) break;
    }
    FlushAll();
    monitor_.reset();
    router_.set(zmq::sockopt::linger, static_cast<int>(kLinger.count()));
    router_.close();
  } catch (const std::exception& error) {
    End(Internal("engine link: {}", error.what()));
  }
}

void EngineServer::PollOnce() {
  zmq::pollitem_t items[] = {{nullptr, outbox_->wake().fd(), ZMQ_POLLIN, 0},
                             {router_.handle(), 0, ZMQ_POLLIN, 0},
                             {allowed_.socket().handle(), 0, ZMQ_POLLIN, 0},
                             {monitor_->socket().handle(), 0, ZMQ_POLLIN, 0}};
  const bool suspicious = monitor_->Suspicious();
  const bool unsent = !client_.empty() && (!replies_.empty() || !outbox_->empty());
  auto timeout = kHealthInterval;
  if (unsent && !client_is_full_) {
    timeout = std::chrono::milliseconds(0);
  } else if (unsent || suspicious) {
    timeout = kSoon;
  }
  zmq::poll(items, std::size(items), timeout);
  if (kv_store::Readable(items[0])) outbox_->wake().Clear();
  if (kv_store::Readable(items[2])) allowed_.Answer();
  if (kv_store::Readable(items[1])) Receive();
  if ((liveness_.Tick() || suspicious) && replies_.empty()) Reply(LinkPing{});
  Flush();
  CheckEngine();
}

void EngineServer::Receive() {
  for (int frames = 0; frames < kFramesInARow; ++frames) {
    std::vector<zmq::message_t> parts = kv_store::TryReceive(router_);  // routing id, frame
    if (parts.empty()) return;
    if (parts.size() != 2) continue;  // none of ours
    absl::StatusOr<LinkMessage> message = DecodeLinkMessage(kv_store::BytesOf(parts[1]));
    if (!message.ok()) continue;  // of no use to anyone; the client waits in vain and says so
    const std::string from = parts[0].to_string();
    if (std::holds_alternative<LinkHello>(*message)) {
      if (!client_.empty() && client_ != from) ClientGone();
      client_ = from;
    }
    if (client_ == from) Handle(*std::move(message));
  }
}

void EngineServer::Handle(LinkMessage message) {
  std::visit(core::Overloaded{[&](LinkHello) { Reply(LinkWelcome{.epoch = options_.epoch}); },
                              [&](LinkStop) { End(absl::OkStatus()); },
                              [&](LinkSubmit& submit) { Submit(std::move(submit)); },
                              [&](LinkCancel& cancel) {
                                const auto found = engine_ids_.find(cancel.id);
                                if (found != engine_ids_.end()) engine_.Cancel(found->second);
                              },
                              [&](LinkStatusQuery& query) {
                                absl::StatusOr<EngineStatus> status = engine_.Status();
                                LinkStatus reply{
                                    .query = query.query, .error = status.status(), .status = {}};
                                if (status.ok()) reply.status = *std::move(status);
                                Reply(reply);
                              },
                              [](auto&) {}},  // what only a server says
             message);
}

void EngineServer::Submit(LinkSubmit message) {
  const RequestId id = message.id;
  // Results cannot overtake the acceptance: they wait in the outbox, behind the replies.
  const auto outbox = outbox_;
  EngineSink sink{
      .on_admitted = [outbox, id] { outbox->PutResult(id, LinkAdmitted{.id = id}); },
      .on_tokens =
          [outbox, id](std::span<const int32_t> tokens) {
            outbox->PutResult(id, LinkTokens{.id = id, .tokens = {tokens.begin(), tokens.end()}});
          },
      .on_logits =
          [outbox, id](int64_t position, std::span<const float> logits) {
            outbox->PutResult(
                id, LinkLogits{
                        .id = id, .position = position, .logits = {logits.begin(), logits.end()}});
          },
      .on_logprobs =
          [outbox, id](int64_t position, std::span<const TokenLogprobs> logprobs) {
            outbox->PutResult(id, LinkLogprobs{.id = id,
                                               .position = position,
                                               .logprobs = {logprobs.begin(), logprobs.end()}});
          },
      .on_finish = [outbox, id](const Finish& finish) { outbox->PutFinish(id, finish); }};
  const absl::StatusOr<RequestId> submitted =
      engine_.Submit(std::move(message.request), std::move(sink));
  if (submitted.ok()) {
    engine_ids_[id] = *submitted;
    Reply(LinkAccepted{.id = id});
  } else {
    Reply(LinkRefused{.id = id, .status = submitted.status()});
  }
}

void EngineServer::Reply(const LinkMessage& message) {
  replies_.push_back(EncodeLinkMessage(message));
}

void EngineServer::EndOverflown() {
  for (const RequestId id : outbox_->TakeOverflows()) {
    const auto found = engine_ids_.find(id);
    if (found != engine_ids_.end()) engine_.Cancel(found->second);
    Reply(LinkFinish{
        .id = id,
        .finish = {.reason = FinishReason::kFailed,
                   .status = ResourceExhausted(
                       "more than {} bytes of results were not read in time", options_.most_unsent),
                   .usage = {}}});
  }
  for (const RequestId id : outbox_->TakeFinished()) engine_ids_.erase(id);
}

void EngineServer::Flush() {
  EndOverflown();
  if (client_.empty()) {
    replies_.clear();
    return outbox_->Clear();
  }
  client_is_full_ = false;
  for (int frames = 0; frames < kFramesInARow; ++frames) {
    const bool reply = !replies_.empty();
    std::vector<std::byte> frame = reply ? replies_.front() : outbox_->Take();
    if (frame.empty()) return;
    switch (kv_store::TrySend(router_, client_, frame)) {
      case kv_store::SendOutcome::kSent:
        if (reply) replies_.pop_front();
        break;
      case kv_store::SendOutcome::kFull:
        if (!reply) outbox_->PutBack(std::move(frame));
        client_is_full_ = true;
        return;
      case kv_store::SendOutcome::kGone:
        return ClientGone();
    }
  }
}

void EngineServer::FlushAll() {
  do {
    Flush();
  } while (!client_.empty() && !client_is_full_ && (!replies_.empty() || !outbox_->empty()));
}

void EngineServer::CheckEngine() {
  if (told_dead_) return;
  const absl::Status health = engine_.Health();
  if (health.ok()) return;
  // The requests' own ends go first.
  FlushAll();
  told_dead_ = true;
  Reply(LinkDead{.why = health});
  FlushAll();
  End(health);
}

void EngineServer::ClientGone() {
  if (client_.empty()) return;
  client_.clear();
  for (const auto& [id, engine_id] : engine_ids_) engine_.Cancel(engine_id);
  outbox_->Clear();
  End(Unavailable("engine link: the gateway is gone"));
}

}  // namespace tandem::parallel
