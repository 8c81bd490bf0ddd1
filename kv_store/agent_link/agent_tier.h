#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/mutex.h"
#include "kv_store/agent_link/agent_codec.h"
#include "kv_store/agent_link/agent_connection.h"
#include "kv_store/agent_link/agent_directory.h"
#include "kv_store/records/tier.h"
#include "zmq.hpp"

namespace tandem::kv_store {

struct AgentTierOptions {
  std::chrono::milliseconds deadline{2000};          // of Put, Get, Where; late means miss
  std::chrono::milliseconds flush_deadline{30'000};  // of Flush and Erase
  /// Of Listen and Introduce. Ranks that start wait for these, also where the agent is stopped.
  std::chrono::milliseconds meet_deadline{5000};
  std::chrono::milliseconds down{500};      // an agent that failed is not asked again for so long
  std::chrono::milliseconds renew{1000};    // how often the lease is renewed
  int64_t batch_bytes = int64_t{16} << 20;  // of records in one request, about
};

/// The tiers that the agent of this host owns (AgentServer). An agent that is gone, or late, misses
/// and refuses; it is found again when it is back, also where its directory was removed or replaced
/// meanwhile. Renews the agent's lease as long as it lives.
///
/// Every call has a connection of its own for as long as it takes, so a late answer can never be
/// taken for that of another call. Thread safety: as Tier.
class AgentTier : public ListableTier {
 public:
  AgentTier(AgentDirectory directory, const AgentTierOptions& options);
  ~AgentTier() override;

  absl::Status Put(std::span<const TierRecord> records) override;
  std::vector<std::optional<FoundRecord>> Get(std::span<const RecordKey> keys) override;
  std::vector<std::optional<TierKind>> Where(std::span<const RecordKey> keys) override;
  void Use(std::span<const RecordKey> keys) override;
  absl::Status Flush() override;
  absl::Status Erase(std::span<const BlockHash> blocks) override;
  /// All zero if the agent does not answer.
  TierStats Stats() override;
  std::vector<std::pair<TierKind, TierStats>> StatsByTier();
  absl::Status Drop(std::span<const RecordKey> keys) override;
  /// As much as goes in one answer.
  absl::StatusOr<std::vector<ListedBlock>> List(const std::optional<BlockHash>& after,
                                                size_t most) override;
  std::vector<PeekedRecord> Peek(TierKind tier, std::span<const RecordKey> keys) override;

  /// OK if the agent answers.
  absl::Status Renew();
  /// Has the agent listen for other hosts at this address of this host; how they reach it.
  absl::StatusOr<AgentPeer> Listen(const std::string& address);
  /// Tells the agent of those of the other hosts of a job.
  absl::Status Introduce(AgentIntroduction introduction);
  /// Anything else.
  absl::StatusOr<AgentMessage> Ask(AgentMessage request, std::chrono::milliseconds patience) {
    return Call(std::move(request), Clock::now() + patience);
  }
  /// Asks the agent to end.
  absl::Status StopAgent();
  /// Whether the directory in which the agent was met last was removed.
  bool DirectoryIsRemoved();

 private:
  using Clock = std::chrono::steady_clock;

  /// kUnavailable if there is no agent, kDeadlineExceeded if it is late.
  absl::StatusOr<AgentMessage> Call(AgentMessage request, Clock::time_point deadline);
  template <typename Kind>
  absl::StatusOr<Kind> CallFor(AgentMessage request, Clock::time_point deadline);
  /// Of a request that is answered by a status.
  absl::Status CallForStatus(AgentMessage request, Clock::time_point deadline);
  absl::StatusOr<std::unique_ptr<AgentConnection>> Connect();
  /// The one that the path names now, if there is one.
  std::shared_ptr<const AgentDirectory> Directory();
  absl::StatusOr<AgentMessage> Exchange(AgentConnection& connection, const AgentFrame& request,
                                        Clock::time_point deadline);
  /// All zero if the agent does not answer.
  AgentStats AskStats();
  void RunLease();

  const AgentTierOptions options_;
  const std::string path_;  // of the directory
  zmq::context_t context_;
  std::atomic<uint64_t> next_call_ = 1;

  Mutex mutex_;
  CondVar changed_;
  std::shared_ptr<const AgentDirectory> directory_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<AgentConnection>> idle_ ABSL_GUARDED_BY(mutex_);
  std::optional<Clock::time_point> down_until_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;

  std::thread lease_;
};

}  // namespace tandem::kv_store
