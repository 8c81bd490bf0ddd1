#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "kv_store/agent_link/agent_codec.h"
#include "kv_store/journal/journal_copies.h"
#include "kv_store/peers/peer_tier.h"

namespace tandem::kv_store {

/// Whether a message asks something of copies.
bool IsOfCopies(const AgentMessage& request);

struct CopyRequestsOptions {
  std::chrono::milliseconds find_deadline{1000};  // of what all are asked
  std::chrono::milliseconds append_deadline{1500};
  std::chrono::milliseconds part_deadline{10'000};  // of parts and pages
  std::chrono::milliseconds erase_deadline{20'000};
};

/// What an agent does about copies of conversations: for peers, with those that this host has; for
/// the processes of this host, with those of all hosts. Thread safety: all functions.
class CopyRequests {
 public:
  /// host: this one. Both must outlive it.
  CopyRequests(std::string host, JournalCopies& copies, PeerTier& peers,
               const CopyRequestsOptions& options = {})
      : host_(std::move(host)), copies_(copies), peers_(peers), options_(options) {}

  /// Nothing for messages that are not of copies.
  std::optional<AgentMessage> DoForPeer(const AgentMessage& request);
  std::optional<AgentMessage> DoForThisHost(const AgentMessage& request);

 private:
  AgentCopies Find(const AgentCopyFind& request);
  AgentMessage Append(const AgentCopyAppend& request);
  AgentMessage Read(const AgentCopyRead& request);
  AgentCopies OwnCopies();
  /// To the host's agent, which gets `passed_on`.
  AgentMessage Pass(const std::string& to, AgentMessage passed_on,
                    std::chrono::milliseconds deadline);
  absl::Status EraseEverywhere(const AgentCopyErase& erase);

  const std::string host_;
  JournalCopies& copies_;
  PeerTier& peers_;
  const CopyRequestsOptions options_;
};

}  // namespace tandem::kv_store
