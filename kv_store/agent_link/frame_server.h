#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "core/base/mutex.h"
#include "core/base/status.h"
#include "kv_store/agent_link/agent_codec.h"
#include "kv_store/base/zmq_tools.h"
#include "zmq.hpp"

namespace tandem::kv_store {

/// When somebody last needed the agent. Thread safety: all functions.
class Lease {
 public:
  using Clock = std::chrono::steady_clock;

  void Renew() { renewed_ = Clock::now(); }
  Clock::duration age() const { return Clock::now() - renewed_.load(); }

 private:
  std::atomic<Clock::time_point> renewed_ = Clock::now();
};

struct FrameServerOptions {
  int threads = 4;                          // that answer
  int64_t queued_bytes = int64_t{1} << 30;  // of requests that wait; more are refused
  /// Ends once its lease is so old and nothing is to be done; none: lives until it is stopped.
  std::optional<std::chrono::milliseconds> ttl;
};

/// A request and who sent it.
struct ReceivedFrame {
  std::string client;  // routing id
  std::string user;    // as the AllowList calls the sender; empty without one
  AgentParts parts;
};

/// Answers the frames of an agent's clients over a ROUTER socket, several at the same time. A
/// message that is no frame is answered with an error, and its client stays connected. Thread
/// safety: all functions.
class FrameServer {
 public:
  /// The answer to a request. Called from several threads.
  using Answer = std::function<AgentParts(const ReceivedFrame& request)>;
  /// Called once when nobody can ask any more; Wait returns what it does.
  using OnEnd = std::function<absl::Status()>;

  /// Binds to the endpoint. With keys it is a CURVE server that only those on allowed() reach, at
  /// first nobody; without, nothing is encrypted. kUnavailable if it cannot be bound.
  static absl::StatusOr<std::unique_ptr<FrameServer>> Create(const std::string& endpoint,
                                                             const std::optional<CurveKeys>& keys,
                                                             std::shared_ptr<Lease> lease,
                                                             Answer answer, OnEnd on_end,
                                                             const FrameServerOptions& options);
  /// Stops it.
  ~FrameServer();

  void Stop();
  /// Until it ends.
  absl::Status Wait();

  /// As bound: with the port's number.
  const std::string& endpoint() const { return endpoint_; }
  AllowList& allowed() { return *allowed_; }

 private:
  struct Frame {
    std::string client;
    AgentParts parts;
  };

  FrameServer(std::shared_ptr<Lease> lease, Answer answer, OnEnd on_end,
              const FrameServerOptions& options);
  void Receive();
  void SendAnswers();
  void Accept(ReceivedFrame request);
  bool PollOnce();
  void RunSocket();
  void RunWorker();

  const FrameServerOptions options_;
  const std::shared_ptr<Lease> lease_;
  const Answer answer_;
  const OnEnd on_end_;
  zmq::context_t context_;
  std::unique_ptr<AllowList> allowed_;  // null: everybody is
  zmq::socket_t socket_;                // ROUTER; the socket thread's
  std::string endpoint_;
  WakeUp wake_;

  Mutex mutex_;
  CondVar changed_;
  std::deque<ReceivedFrame> requests_ ABSL_GUARDED_BY(mutex_);
  int64_t requests_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<Frame> answers_ ABSL_GUARDED_BY(mutex_);
  int at_work_ ABSL_GUARDED_BY(mutex_) = 0;  // requests that are being served
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status end_ ABSL_GUARDED_BY(mutex_);

  std::vector<std::thread> workers_;
  std::thread socket_thread_;
};

}  // namespace tandem::kv_store
