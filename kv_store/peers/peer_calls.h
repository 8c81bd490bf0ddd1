#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/base/mutex.h"
#include "core/base/status.h"
#include "kv_store/agent_link/agent_connection.h"
#include "zmq.hpp"

namespace tandem::kv_store {

struct PeerCallsOptions {
  std::chrono::milliseconds ping_deadline{1000};
  // How soon a peer that did not answer is asked again whether it is there: at first, and at last.
  std::chrono::milliseconds first_retry{50};
  std::chrono::milliseconds last_retry{10'000};
};

/// Asks agents of other hosts, many at the same time. One that is late or gone is not asked again
/// before it has answered a ping, which a thread of its own sends now and then: nobody waits twice
/// for a host that is down.
///
/// Every question has a connection of its own for as long as it takes, so a late answer can never
/// be taken for that of another. Thread safety: all functions.
class PeerCalls {
 public:
  using Clock = std::chrono::steady_clock;

  /// A peer that may be asked.
  struct Peer;
  using PeerPointer = std::shared_ptr<Peer>;
  static const AgentPeer& WhoIs(const Peer& peer);

  struct Question {
    PeerPointer peer;
    AgentMessage message;
  };

  PeerCalls(CurveKeys keys, const PeerCallsOptions& options);
  ~PeerCalls();

  /// From now on these are there to be asked; those that were there already stay as they are.
  void SetPeers(const std::vector<AgentPeer>& peers);
  std::vector<PeerPointer> Peers() const;
  bool IsUp(const Peer& peer) const;
  /// Waits until each of these hosts has answered, but not beyond the deadline; whether they have.
  bool Await(const std::vector<std::string>& hosts, Clock::time_point deadline);

  /// [questions] The answers, of the kind of whatever was asked or AgentStatus; kUnavailable if the
  /// peer is not up or goes away, kDeadlineExceeded if it is late.
  std::vector<absl::StatusOr<AgentMessage>> Ask(const std::vector<Question>& questions,
                                                Clock::time_point deadline);
  /// [peers] Asks all of them the same.
  std::vector<absl::StatusOr<AgentMessage>> AskAll(const std::vector<PeerPointer>& peers,
                                                   const AgentMessage& message,
                                                   Clock::time_point deadline);

 private:
  struct Asked;

  /// Asks those that are down, too.
  std::vector<absl::StatusOr<AgentMessage>> AskAnyway(const std::vector<Question>& questions,
                                                      Clock::time_point deadline);
  std::unique_ptr<AgentConnection> Connect(const AgentPeer& peer);
  void Begin(Asked& asked, bool fresh);
  void Poll(std::vector<Asked>& all, Clock::time_point deadline);
  void Look(Asked& asked, bool readable, bool event);
  void Note(std::vector<Asked>& all);
  void RunPings();
  bool AreUp(const std::vector<std::string>& hosts) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  /// `next`: when to look again.
  std::vector<Question> DuePings(Clock::time_point& next) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const CurveKeys keys_;
  const PeerCallsOptions options_;
  zmq::context_t context_;
  std::atomic<uint64_t> next_call_ = 1;

  mutable Mutex mutex_;
  CondVar changed_;
  std::vector<PeerPointer> peers_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;

  std::thread pings_;
};

}  // namespace tandem::kv_store
