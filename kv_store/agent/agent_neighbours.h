#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/mutex.h"
#include "core/base/status.h"
#include "kv_store/agent/copy_requests.h"
#include "kv_store/agent_link/agent_codec.h"
#include "kv_store/agent_link/frame_server.h"
#include "kv_store/journal/journal_copies.h"
#include "kv_store/peers/peer_registry.h"
#include "kv_store/peers/peer_tier.h"
#include "kv_store/records/tier.h"

namespace tandem::kv_store {

struct AgentNeighboursOptions {
  int threads = 4;                           // that serve peers
  int64_t queued_bytes = int64_t{1} << 30;   // of requests that wait; more are refused
  int64_t answer_bytes = int64_t{32} << 20;  // of records in one answer, about
  /// So long Introduce waits until the peers of the job answer; those that are later are found
  /// later.
  std::chrono::milliseconds patience{2000};
  std::chrono::milliseconds look{
      1000};  // how often the registry is looked into for what was removed
};

/// The agents of other hosts, as this host's agent deals with them: it serves those it has met,
/// over TCP with CURVE, from what it has itself, and tells its PeerTier of them. Peers may put,
/// get, ask for, use, flush and erase records and ask for statistics; they may not end the agent or
/// tell it of others. It keeps copies of the conversations of their servers. It knows them from the
/// jobs that brought them together, and from its registry, so that an agent that is started again
/// listens where it did and serves whom it did. Thread safety: all.
class AgentNeighbours {
 public:
  /// What peers are served from.
  struct Here {
    Tier& tier;                                                     // must never ask peers itself
    std::function<absl::Status(std::span<const BlockHash>)> erase;  // in it, for peers' Erase
    std::function<AgentStats()> stats;
  };

  /// lease: renewed by whatever peers ask, but not by pings, or two agents would keep each other
  /// alive. peers and here must outlive it.
  AgentNeighbours(PeerRegistry registry, PeerTier& peers, Here here, std::shared_ptr<Lease> lease,
                  const AgentNeighboursOptions& options);
  ~AgentNeighbours();
  AgentNeighbours(const AgentNeighbours&) = delete;
  AgentNeighbours& operator=(const AgentNeighbours&) = delete;

  /// Listens at this address of this host, unless it does already; how others reach it.
  absl::StatusOr<AgentPeer> Listen(const std::string& address);
  /// A job begins. kUnavailable if not all of its peers answer yet; they are known all the same.
  absl::Status Introduce(const AgentIntroduction& introduction);
  /// What processes of this host ask about copies of conversations; nothing for other messages.
  std::optional<AgentMessage> DoWithCopies(const AgentMessage& request) {
    return copy_requests_.DoForThisHost(request);
  }

 private:
  /// The hosts of the introduction.
  absl::StatusOr<std::vector<std::string>> Learn(const AgentIntroduction& introduction);
  absl::Status ListenAt(const std::string& endpoint) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  AgentMessage Do(const AgentMessage& request);
  AgentParts Answer(const ReceivedFrame& request);
  /// Tells server and tier of whom the registry has.
  void UseRegistry() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RunLook();

  const AgentNeighboursOptions options_;
  const PeerRegistry registry_;
  PeerTier& peers_;
  const Here here_;
  const std::shared_ptr<Lease> lease_;
  JournalCopies journal_copies_;  // in `conversations` of the agent's directory
  CopyRequests copy_requests_;

  Mutex served_mutex_;  // never held while another is taken
  std::set<std::string> served_ ABSL_GUARDED_BY(served_mutex_);  // hosts

  Mutex mutex_;
  CondVar changed_;
  int64_t stamp_ ABSL_GUARDED_BY(mutex_) = 0;  // of the registry when it was looked into last
  std::vector<KnownPeer> known_ ABSL_GUARDED_BY(mutex_);
  std::string address_ ABSL_GUARDED_BY(mutex_);  // where it listens, empty: nowhere
  uint32_t copies_ ABSL_GUARDED_BY(mutex_) = 1;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<FrameServer> server_ ABSL_GUARDED_BY(mutex_);

  std::thread look_;
};

}  // namespace tandem::kv_store
