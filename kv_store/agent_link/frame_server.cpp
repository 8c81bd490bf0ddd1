#include "kv_store/agent_link/frame_server.h"

#include <algorithm>
#include <utility>

namespace tandem::kv_store {
namespace {

constexpr std::chrono::milliseconds kLookInterval{50};
constexpr std::chrono::milliseconds kLastAnswers{100};
// Frames received or sent in a row: neither direction may starve the other.
constexpr int kFramesInARow = 64;
// How long the last answers may take.
constexpr int kLingerMs = 500;
// libzmq cuts a peer off that sends more; we want to answer before that.
constexpr int64_t kMargin = int64_t{1} << 20;

AgentParts Refusal(const AgentParts& request, absl::Status status) {
  return EncodeAgentFrame(
      {.call = CallOfFrame(request), .message = AgentStatus{.status = std::move(status)}});
}

}  // namespace

absl::StatusOr<std::unique_ptr<FrameServer>> FrameServer::Create(
    const std::string& endpoint, const std::optional<CurveKeys>& keys, std::shared_ptr<Lease> lease,
    Answer answer, OnEnd on_end, const FrameServerOptions& options) {
  std::unique_ptr<FrameServer> server;
  try {
    server.reset(new FrameServer(std::move(lease), std::move(answer), std::move(on_end), options));
    SocketLimits limits;
    limits.largest_message = static_cast<int64_t>(kLargestAgentFrame) + kMargin;
    SetSafeOptions(server->socket_, limits);
    server->socket_.set(zmq::sockopt::linger, kLingerMs);
    server->socket_.set(zmq::sockopt::router_mandatory, 1);
    if (keys) {
      server->allowed_ =
          std::make_unique<AllowList>(server->context_, std::map<std::string, std::string>());
      BeCurveServer(server->socket_, *keys);
    }
    server->socket_.bind(endpoint);
    server->endpoint_ = server->socket_.get(zmq::sockopt::last_endpoint);
  } catch (const std::exception& error) {
    return Unavailable("KV agent: cannot listen at {}: {}", endpoint, error.what());
  }
  for (int i = 0; i < std::max(1, options.threads); ++i) {
    server->workers_.emplace_back([raw = server.get()] { raw->RunWorker(); });
  }
  server->socket_thread_ = std::thread([raw = server.get()] { raw->RunSocket(); });
  return server;
}

FrameServer::FrameServer(std::shared_ptr<Lease> lease, Answer answer, OnEnd on_end,
                         const FrameServerOptions& options)
    : options_(options),
      lease_(std::move(lease)),
      answer_(std::move(answer)),
      on_end_(std::move(on_end)),
      socket_(context_, zmq::socket_type::router) {}

FrameServer::~FrameServer() {
  Stop();
  if (socket_thread_.joinable()) socket_thread_.join();
  for (std::thread& worker : workers_) worker.join();
}

void FrameServer::Stop() {
  const MutexLock lock(mutex_);
  stop_ = true;
  changed_.NotifyAll();
  wake_.Signal();
}

absl::Status FrameServer::Wait() {
  const MutexLock lock(mutex_);
  while (!ended_) changed_.Wait(mutex_);
  return end_;
}

void FrameServer::Accept(ReceivedFrame request) {
  const MutexLock lock(mutex_);
  const auto refuse = [&](absl::Status why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    answers_.push_back(
        {.client = std::move(request.client), .parts = Refusal(request.parts, std::move(why))});
  };
  if (stop_) return refuse(Unavailable("KV agent: it is ending"));
  const int64_t size = BytesOf(request.parts);
  if (requests_bytes_ + size > options_.queued_bytes && !requests_.empty()) {
    return refuse(
        ResourceExhausted("KV agent: {} bytes of requests wait already", requests_bytes_));
  }
  requests_bytes_ += size;
  requests_.push_back(std::move(request));
  changed_.NotifyAll();
}

/// In the socket's thread.
void FrameServer::Receive() {
  for (int i = 0; i < kFramesInARow; ++i) {
    std::vector<zmq::message_t> parts = TryReceive(socket_);
    if (parts.empty()) return;
    ReceivedFrame request{.client = parts[0].to_string(), .user = {}, .parts = {}};
    if (allowed_) request.user = UserOf(parts.back());
    parts.erase(parts.begin());
    request.parts = TakeParts(std::move(parts));
    // Of a message that is too large as a whole, the decoder misses the parts.
    if (BytesOf(request.parts) > static_cast<int64_t>(kLargestAgentFrame)) request.parts.resize(1);
    Accept(std::move(request));
  }
}

/// In the socket's thread.
void FrameServer::SendAnswers() {
  for (int i = 0; i < kFramesInARow; ++i) {
    Frame answer;
    {
      const MutexLock lock(mutex_);
      if (answers_.empty()) return;
      answer = std::move(answers_.front());
      answers_.pop_front();
    }
    // Who is gone, or does not read, has not waited for it either.
    static_cast<void>(TrySend(socket_, answer.client, answer.parts));
  }
  wake_.Signal();
}

/// Whether anything came.
bool FrameServer::PollOnce() {
  std::vector<zmq::pollitem_t> items = {{socket_.handle(), 0, ZMQ_POLLIN, 0},
                                        {nullptr, wake_.fd(), ZMQ_POLLIN, 0}};
  if (allowed_) items.push_back({allowed_->socket().handle(), 0, ZMQ_POLLIN, 0});
  try {
    if (!kv_store::PollOnce(items, kLookInterval)) return false;
    if (Readable(items[1])) wake_.Clear();
    if (allowed_ && Readable(items[2])) allowed_->Answer();
    const bool came = Readable(items[0]);
    if (came) Receive();
    SendAnswers();
    return came;
  } catch (const zmq::error_t&) {
    return false;  // of one peer; the others go on
  }
}

void FrameServer::RunSocket() {
  auto busy = Lease::Clock::now();
  for (;;) {
    const bool came = PollOnce();
    if (came && options_.ttl) lease_->Renew();
    const MutexLock lock(mutex_);
    const bool idle = requests_.empty() && at_work_ == 0 && answers_.empty();
    if (came || !idle) busy = Lease::Clock::now();
    if (options_.ttl && idle && Lease::Clock::now() - busy > *options_.ttl &&
        lease_->age() > *options_.ttl) {
      stop_ = true;
    }
    // A peer whose connection ends drops what it has not read yet; so the last answers get a while.
    if (stop_ && idle && Lease::Clock::now() - busy > kLastAnswers) break;
  }
  socket_.close();
  if (allowed_) allowed_->socket().close();
  context_.close();  // waits until nobody can connect any more
  absl::Status end = on_end_ ? on_end_() : absl::OkStatus();
  const MutexLock lock(mutex_);
  end_ = std::move(end);
  ended_ = true;
  changed_.NotifyAll();
}

void FrameServer::RunWorker() {
  MutexLock lock(mutex_);
  for (;;) {
    while (requests_.empty() && !ended_) changed_.Wait(mutex_);
    if (requests_.empty()) return;
    ReceivedFrame request = std::move(requests_.front());
    requests_.pop_front();
    ++at_work_;
    lock.Unlock();
    Frame answer{.client = request.client, .parts = answer_(request)};
    lock.Lock();
    requests_bytes_ -= BytesOf(request.parts);
    answers_.push_back(std::move(answer));
    --at_work_;
    wake_.Signal();
  }
}

}  // namespace tandem::kv_store
