#include "kv_store/agent_server.h"

#include <algorithm>
#include <iterator>

#include "zmq_addon.hpp"

namespace tandem::kv_store {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kLeaseInterval{50};
constexpr std::chrono::milliseconds kLastAnswers{100};
// Frames received or sent in a row: neither direction may starve the other.
constexpr int kFramesInARow = 64;
// How long the last answers may take.
constexpr int kLingerMs = 500;
// libzmq cuts a peer off that sends more; we want to answer before that.
constexpr int64_t kMargin = int64_t{1} << 20;

std::vector<std::byte> Refusal(std::span<const std::byte> request, absl::Status status) {
  return EncodeAgentFrame(
      {.call = CallOfFrame(request), .message = AgentStatus{.status = std::move(status)}});
}

}  // namespace

absl::StatusOr<std::unique_ptr<AgentServer>> AgentServer::Create(
    AgentDirectory directory, Tier& tier, StatsByTier stats_by_tier,
    const AgentServerOptions& options) {
  std::unique_ptr<AgentServer> server(
      new AgentServer(std::move(directory), tier, std::move(stats_by_tier), options));
  try {
    SocketLimits limits;
    limits.largest_message = static_cast<int64_t>(kLargestAgentFrame) + kMargin;
    SetSafeOptions(server->socket_, limits);
    server->socket_.set(zmq::sockopt::linger, kLingerMs);
    server->socket_.set(zmq::sockopt::router_mandatory, 1);
    server->socket_.bind(server->directory_.address());
  } catch (const zmq::error_t& error) {
    return Unavailable("KV agent: cannot listen in {}: {}", server->directory_.path(),
                       error.what());
  }
  for (int i = 0; i < std::max(1, options.threads); ++i) {
    server->workers_.emplace_back([raw = server.get()] { raw->RunWorker(); });
  }
  server->socket_thread_ = std::thread([raw = server.get()] { raw->RunSocket(); });
  return server;
}

AgentServer::AgentServer(AgentDirectory directory, Tier& tier, StatsByTier stats_by_tier,
                         const AgentServerOptions& options)
    : options_(options),
      directory_(std::move(directory)),
      tier_(tier),
      stats_by_tier_(std::move(stats_by_tier)),
      socket_(context_, zmq::socket_type::router) {}

AgentServer::~AgentServer() {
  Stop();
  if (socket_thread_.joinable()) socket_thread_.join();
  for (std::thread& worker : workers_) worker.join();
}

void AgentServer::Stop() {
  const std::lock_guard lock(mutex_);
  stop_ = true;
  changed_.notify_all();
  wake_.Signal();
}

absl::Status AgentServer::Wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return ended_; });
  return last_flush_;
}

void AgentServer::Accept(std::string client, std::vector<std::byte> bytes) {
  const std::lock_guard lock(mutex_);
  if (stop_) {
    answers_.push_back({.client = std::move(client),
                        .bytes = Refusal(bytes, Unavailable("KV agent: it is ending"))});
    return;
  }
  const auto size = static_cast<int64_t>(bytes.size());
  if (requests_bytes_ + size > options_.queued_bytes && !requests_.empty()) {
    answers_.push_back(
        {.client = std::move(client),
         .bytes = Refusal(bytes, ResourceExhausted("KV agent: {} bytes of requests wait already",
                                                   requests_bytes_))});
    return;
  }
  requests_bytes_ += size;
  requests_.push_back({.client = std::move(client), .bytes = std::move(bytes)});
  changed_.notify_all();
}

/// In the socket's thread.
void AgentServer::Receive() {
  for (int i = 0; i < kFramesInARow; ++i) {
    std::vector<zmq::message_t> parts;
    if (!zmq::recv_multipart(socket_, std::back_inserter(parts), zmq::recv_flags::dontwait)) return;
    if (parts.empty()) continue;
    std::vector<std::byte> bytes;
    if (parts.size() == 2) {
      const std::span<const std::byte> frame = BytesOf(parts[1]);
      bytes.assign(frame.begin(), frame.end());
    }
    // Messages of other than one frame are empty to the decoder, which says what it misses.
    Accept(parts[0].to_string(), std::move(bytes));
  }
}

/// In the socket's thread.
void AgentServer::SendAnswers() {
  for (int i = 0; i < kFramesInARow; ++i) {
    Frame answer;
    {
      const std::lock_guard lock(mutex_);
      if (answers_.empty()) return;
      answer = std::move(answers_.front());
      answers_.pop_front();
    }
    // Who is gone, or does not read, has not waited for it either.
    static_cast<void>(TrySend(socket_, answer.client, answer.bytes));
  }
  wake_.Signal();
}

void AgentServer::RunSocket() {
  auto renewed = Clock::now();
  for (;;) {
    zmq::pollitem_t items[] = {{socket_.handle(), 0, ZMQ_POLLIN, 0},
                               {nullptr, wake_.fd(), ZMQ_POLLIN, 0}};
    try {
      if (!PollOnce(items, kLeaseInterval)) continue;
      if (Readable(items[1])) wake_.Clear();
      if (Readable(items[0])) {
        renewed = Clock::now();
        Receive();
      }
      SendAnswers();
    } catch (const zmq::error_t&) {
      // Of one peer; the others go on.
    }
    const std::lock_guard lock(mutex_);
    const bool idle = requests_.empty() && at_work_ == 0 && answers_.empty();
    if (!idle) renewed = Clock::now();
    if (idle && Clock::now() - renewed > options_.ttl) stop_ = true;
    // A peer whose connection ends drops what it has not read yet; so the last answers get a while.
    if (stop_ && idle && Clock::now() - renewed > kLastAnswers) break;
  }
  socket_.close();
  context_.close();  // waits until nobody can connect any more
  absl::Status flushed = tier_.Flush();
  const std::lock_guard lock(mutex_);
  last_flush_ = std::move(flushed);
  ended_ = true;
  changed_.notify_all();
}

void AgentServer::RunWorker() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return !requests_.empty() || ended_; });
    if (requests_.empty()) return;
    Frame request = std::move(requests_.front());
    requests_.pop_front();
    ++at_work_;
    lock.unlock();
    Frame answer{.client = std::move(request.client), .bytes = Answer(request.bytes)};
    lock.lock();
    requests_bytes_ -= static_cast<int64_t>(request.bytes.size());
    answers_.push_back(std::move(answer));
    --at_work_;
    wake_.Signal();
  }
}

std::vector<std::byte> AgentServer::Answer(const std::vector<std::byte>& request) {
  absl::StatusOr<AgentFrame> frame = DecodeAgentFrame(request);
  if (!frame.ok()) return Refusal(request, frame.status());
  return EncodeAgentFrame({.call = frame->call, .message = Do(frame->message)});
}

AgentFound AgentServer::Find(const std::vector<RecordKey>& keys) {
  AgentFound answer;
  int64_t bytes = 0;
  // A few at a time, since nobody knows how large they are before they are read.
  constexpr size_t kAtATime = 8;
  for (size_t first = 0; first < keys.size() && bytes < options_.answer_bytes; first += kAtATime) {
    const auto part = std::span(keys).subspan(first, std::min(kAtATime, keys.size() - first));
    for (std::optional<FoundRecord>& found : tier_.Get(part)) {
      if (found) bytes += static_cast<int64_t>(found->bytes.size());
      answer.records.push_back(std::move(found));
    }
  }
  return answer;
}

AgentMessage AgentServer::Do(AgentMessage& request) {
  if (const auto* put = std::get_if<AgentPut>(&request)) {
    return AgentStatus{.status = tier_.Put(put->records)};
  }
  if (const auto* get = std::get_if<AgentGet>(&request)) return Find(get->keys);
  if (const auto* exists = std::get_if<AgentExists>(&request)) {
    return AgentExisting{.exists = tier_.Exists(exists->keys)};
  }
  if (const auto* use = std::get_if<AgentUse>(&request)) {
    tier_.Use(use->keys);
    return AgentStatus();
  }
  if (std::holds_alternative<AgentFlush>(request)) return AgentStatus{.status = tier_.Flush()};
  if (const auto* erase = std::get_if<AgentErase>(&request)) {
    return AgentStatus{.status = tier_.Erase(erase->blocks)};
  }
  if (std::holds_alternative<AgentStatsQuery>(request)) {
    return AgentStats{.all = tier_.Stats(), .by_tier = stats_by_tier_()};
  }
  if (std::holds_alternative<AgentRenew>(request)) return AgentStatus();
  if (std::holds_alternative<AgentStop>(request)) {
    Stop();
    return AgentStatus();
  }
  return AgentStatus{.status = InvalidArgument("KV agent: kind {} of message is an answer, no "
                                               "request",
                                               request.index())};
}

}  // namespace tandem::kv_store
