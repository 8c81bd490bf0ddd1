#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kv_store/agent_codec.h"
#include "kv_store/agent_directory.h"
#include "kv_store/tier.h"
#include "kv_store/zmq_tools.h"
#include "zmq.hpp"

namespace tandem::kv_store {

struct AgentServerOptions {
  /// How long it lives on when nobody asks anything any more.
  std::chrono::milliseconds ttl{std::chrono::minutes(10)};
  int threads = 4;                           // that serve
  int64_t queued_bytes = int64_t{1} << 30;   // of requests that wait; more are refused
  int64_t answer_bytes = int64_t{32} << 20;  // of records in one answer, about
};

/// Serves a tier to the processes of this host (AgentTier), over a socket in a directory that only
/// its user may enter. Whoever asks anything renews the lease; when that runs out, or somebody asks
/// it to, it flushes the tier and ends.
///
/// A frame that is malformed is answered with an error and ends nothing. Requests of different
/// clients, and of different threads of one, are served side by side. Thread safety: all functions.
class AgentServer {
 public:
  using StatsByTier = std::function<std::vector<std::pair<TierKind, TierStats>>()>;

  /// directory: locked (AgentDirectory::Lock). `tier` must outlive the server.
  static absl::StatusOr<std::unique_ptr<AgentServer>> Create(AgentDirectory directory, Tier& tier,
                                                             StatsByTier stats_by_tier,
                                                             const AgentServerOptions& options);
  /// Stops it.
  ~AgentServer();

  /// Until it ends; what the tier's last flush said.
  absl::Status Wait();
  void Stop();

 private:
  struct Frame {
    std::string client;  // routing id
    std::vector<std::byte> bytes;
  };

  AgentServer(AgentDirectory directory, Tier& tier, StatsByTier stats_by_tier,
              const AgentServerOptions& options);
  void Receive();
  void SendAnswers();
  void Accept(std::string client, std::vector<std::byte> bytes);
  void RunSocket();
  void RunWorker();
  std::vector<std::byte> Answer(const std::vector<std::byte>& request);
  AgentMessage Do(AgentMessage& request);
  AgentFound Find(const std::vector<RecordKey>& keys);

  const AgentServerOptions options_;
  AgentDirectory directory_;
  Tier& tier_;
  const StatsByTier stats_by_tier_;
  zmq::context_t context_;
  zmq::socket_t socket_;  // ROUTER; the socket thread's
  WakeUp wake_;

  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::deque<Frame> requests_;
  int64_t requests_bytes_ = 0;
  std::deque<Frame> answers_;
  int at_work_ = 0;  // requests that are being served
  bool stop_ = false;
  bool ended_ = false;
  absl::Status last_flush_;

  std::vector<std::thread> workers_;
  std::thread socket_thread_;
};

}  // namespace tandem::kv_store
