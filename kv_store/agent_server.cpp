#include "kv_store/agent_server.h"

#include "kv_store/tier_requests.h"

namespace tandem::kv_store {

absl::StatusOr<std::unique_ptr<AgentServer>> AgentServer::Create(
    AgentDirectory directory, Tier& tier, StatsByTier stats_by_tier,
    const AgentServerOptions& options, AgentNeighbours* neighbours, std::shared_ptr<Lease> lease) {
  std::unique_ptr<AgentServer> server(
      new AgentServer(std::move(directory), tier, std::move(stats_by_tier), options, neighbours));
  AgentServer* raw = server.get();
  TANDEM_ASSIGN_OR_RETURN(
      server->server_,
      FrameServer::Create(
          raw->directory_.address(), std::nullopt, std::move(lease),
          [raw](const ReceivedFrame& request) {
            return AnswerFrame(request.bytes,
                               [raw](const AgentMessage& message) { return raw->Do(message); });
          },
          [raw] { return raw->tier_.Flush(); },
          {.threads = options.threads, .queued_bytes = options.queued_bytes, .ttl = options.ttl}));
  return server;
}

AgentServer::AgentServer(AgentDirectory directory, Tier& tier, StatsByTier stats_by_tier,
                         const AgentServerOptions& options, AgentNeighbours* neighbours)
    : options_(options),
      directory_(std::move(directory)),
      tier_(tier),
      stats_by_tier_(std::move(stats_by_tier)),
      neighbours_(neighbours) {}

AgentMessage AgentServer::Do(const AgentMessage& request) {
  if (auto answer = DoWithTier(tier_, request, options_.answer_bytes)) return *std::move(answer);
  if (std::holds_alternative<AgentStatsQuery>(request)) {
    return AgentStats{.all = tier_.Stats(), .by_tier = stats_by_tier_()};
  }
  if (std::holds_alternative<AgentRenew>(request) || std::holds_alternative<AgentPing>(request)) {
    return AgentStatus();
  }
  if (std::holds_alternative<AgentStop>(request)) {
    server_->Stop();
    return AgentStatus();
  }
  const auto* listen = std::get_if<AgentListen>(&request);
  const auto* meet = std::get_if<AgentMeet>(&request);
  if (listen == nullptr && meet == nullptr) return NoRequest(request);
  if (neighbours_ == nullptr) {
    return AgentStatus{.status = Unimplemented("KV agent: it knows no other hosts")};
  }
  if (meet != nullptr) return AgentStatus{.status = neighbours_->Meet(*meet)};
  absl::StatusOr<AgentPeer> self = neighbours_->Listen(listen->address);
  if (!self.ok()) return AgentStatus{.status = self.status()};
  return AgentIdentity{.self = *std::move(self)};
}

}  // namespace tandem::kv_store
