#include "kv_store/agent/agent_server.h"

#include <algorithm>
#include <span>

#include "kv_store/agent/copy_requests.h"
#include "kv_store/agent/tier_requests.h"

namespace tandem::kv_store {
namespace {

// In one answer.
constexpr size_t kMostListedBlocks = 4096;
constexpr size_t kMostListedRecords = size_t{1} << 16;

}  // namespace

absl::StatusOr<std::unique_ptr<AgentServer>> AgentServer::Create(
    AgentDirectory directory, ListableTier& tier, StatsByTier stats_by_tier,
    const AgentServerOptions& options, AgentNeighbours* neighbours, std::shared_ptr<Lease> lease) {
  std::unique_ptr<AgentServer> server(
      new AgentServer(std::move(directory), tier, std::move(stats_by_tier), options, neighbours));
  AgentServer* raw = server.get();
  TANDEM_ASSIGN_OR_RETURN(
      server->server_,
      FrameServer::Create(
          raw->directory_.address(), std::nullopt, std::move(lease),
          [raw](const ReceivedFrame& request) {
            return AnswerFrame(request.parts,
                               [raw](const AgentMessage& message) { return raw->Do(message); });
          },
          [raw] { return raw->tier_.Flush(); },
          {.threads = options.threads, .queued_bytes = options.queued_bytes, .ttl = options.ttl}));
  server->made_.count_down();
  return server;
}

AgentServer::AgentServer(AgentDirectory directory, ListableTier& tier, StatsByTier stats_by_tier,
                         const AgentServerOptions& options, AgentNeighbours* neighbours)
    : options_(options),
      directory_(std::move(directory)),
      tier_(tier),
      stats_by_tier_(std::move(stats_by_tier)),
      neighbours_(neighbours) {}

AgentPeeked AgentServer::Peek(const AgentPeekQuery& query) {
  AgentPeeked answer;
  int64_t bytes = 0;
  for (const RecordKey& key : query.keys) {
    if (bytes >= options_.answer_bytes) break;
    PeekedRecord peeked = std::move(tier_.Peek(query.tier, std::span(&key, 1)).front());
    bytes += static_cast<int64_t>(peeked.bytes.size());
    answer.records.push_back(std::move(peeked));
  }
  return answer;
}

AgentMessage AgentServer::List(const AgentListQuery& query) {
  absl::StatusOr<std::vector<ListedBlock>> blocks =
      tier_.List(query.after, std::min<size_t>(query.most, kMostListedBlocks));
  if (!blocks.ok()) return AgentStatus{.status = blocks.status()};
  size_t count = 0;
  size_t records = 0;
  while (count < blocks->size() && (count == 0 || records < kMostListedRecords)) {
    records += (*blocks)[count++].records.size();
  }
  blocks->resize(count);
  return AgentListing{.blocks = *std::move(blocks)};
}

AgentMessage AgentServer::Do(const AgentMessage& request) {
  if (auto answer = DoWithTier(tier_, request, options_.answer_bytes)) return *std::move(answer);
  if (const auto* list = std::get_if<AgentListQuery>(&request)) return List(*list);
  if (const auto* peek = std::get_if<AgentPeekQuery>(&request)) return Peek(*peek);
  if (const auto* drop = std::get_if<AgentDrop>(&request)) {
    return AgentStatus{.status = tier_.Drop(drop->keys)};
  }
  if (std::holds_alternative<AgentStatsQuery>(request)) {
    return AgentStats{.all = tier_.Stats(), .by_tier = stats_by_tier_()};
  }
  if (std::holds_alternative<AgentRenew>(request) || std::holds_alternative<AgentPing>(request)) {
    return AgentStatus();
  }
  if (std::holds_alternative<AgentStop>(request)) {
    made_.wait();  // who asks first may be faster than whoever makes it
    server_->Stop();
    return AgentStatus();
  }
  if (IsOfCopies(request)) {
    if (neighbours_ != nullptr) return *neighbours_->DoWithCopies(request);
    return AgentStatus{
        .status = Unavailable("KV agent: it is a command's, and keeps no copies of conversations")};
  }
  const auto* listen = std::get_if<AgentListen>(&request);
  const auto* meet = std::get_if<AgentIntroduction>(&request);
  if (listen == nullptr && meet == nullptr) return NoRequest(request);
  if (neighbours_ == nullptr) {
    return AgentStatus{.status = Unimplemented("KV agent: it knows no other hosts")};
  }
  if (meet != nullptr) return AgentStatus{.status = neighbours_->Introduce(*meet)};
  absl::StatusOr<AgentPeer> self = neighbours_->Listen(listen->address);
  if (!self.ok()) return AgentStatus{.status = self.status()};
  return AgentIdentity{.self = *std::move(self)};
}

}  // namespace tandem::kv_store
