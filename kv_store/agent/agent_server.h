#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <latch>
#include <memory>
#include <utility>
#include <vector>

#include "kv_store/agent/agent_neighbours.h"
#include "kv_store/agent_link/agent_codec.h"
#include "kv_store/agent_link/agent_directory.h"
#include "kv_store/agent_link/frame_server.h"
#include "kv_store/records/tier.h"

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
/// it to, it flushes the tier and ends. Thread safety: all functions.
class AgentServer {
 public:
  using StatsByTier = std::function<std::vector<std::pair<TierKind, TierStats>>()>;

  /// directory: one that the caller has locked (AgentDirectory::Lock). `tier` must outlive the
  /// server, and so must `neighbours`, the agents of other hosts; null: there are none. lease:
  /// renewed by others too.
  static absl::StatusOr<std::unique_ptr<AgentServer>> Create(
      AgentDirectory directory, ListableTier& tier, StatsByTier stats_by_tier,
      const AgentServerOptions& options, AgentNeighbours* neighbours = nullptr,
      std::shared_ptr<Lease> lease = std::make_shared<Lease>());

  /// Until it ends; what the tier's last flush said.
  absl::Status Wait() { return server_->Wait(); }
  void Stop() { server_->Stop(); }

 private:
  AgentServer(AgentDirectory directory, ListableTier& tier, StatsByTier stats_by_tier,
              const AgentServerOptions& options, AgentNeighbours* neighbours);
  AgentMessage Do(const AgentMessage& request);
  /// What only processes of this host may ask.
  AgentMessage List(const AgentListQuery& query);
  AgentPeeked Peek(const AgentPeekQuery& query);

  const AgentServerOptions options_;
  AgentDirectory directory_;
  ListableTier& tier_;
  const StatsByTier stats_by_tier_;
  AgentNeighbours* const neighbours_;
  std::latch made_{1};  // server_ is there
  std::unique_ptr<FrameServer> server_;
};

}  // namespace tandem::kv_store
