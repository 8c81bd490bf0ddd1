#include "kv_store/agent/agent_neighbours.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <map>
#include <utility>

#include "kv_store/agent/tier_requests.h"

namespace tandem::kv_store {
namespace {

int64_t SecondsNow() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

/// "10.0.0.1" of "tcp://10.0.0.1:40123", "[fd00::1]" of "tcp://[fd00::1]:40123".
std::string AddressIn(const std::string& endpoint) {
  const size_t begin = std::string("tcp://").size();
  const size_t end = endpoint.rfind(':');
  return end == std::string::npos || end < begin ? "" : endpoint.substr(begin, end - begin);
}

bool SamePeers(const std::vector<KnownPeer>& a, const std::vector<KnownPeer>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const KnownPeer& one, const KnownPeer& other) {
                      return one.peer == other.peer && one.in_job == other.in_job;
                    });
}

}  // namespace

AgentNeighbours::AgentNeighbours(PeerRegistry registry, PeerTier& peers, Here here,
                                 std::shared_ptr<Lease> lease,
                                 const AgentNeighboursOptions& options)
    : options_(options),
      registry_(std::move(registry)),
      peers_(peers),
      here_(std::move(here)),
      lease_(std::move(lease)),
      journal_copies_({.folder = registry_.directory() + "/conversations"}),
      copy_requests_(registry_.host(), journal_copies_, peers_) {
  {
    const MutexLock lock(mutex_);
    if (const auto listens = registry_.ReadListens()) {
      copies_ = listens->copies;
      if (const absl::Status status = ListenAt(listens->endpoint); !status.ok()) {
        spdlog::warn("{}; other hosts do not reach this agent until a job brings them together",
                     Message(status));
      }
    }
    known_ = registry_.Peers();
    UseRegistry();
  }
  look_ = std::thread([this] { RunLook(); });
}

AgentNeighbours::~AgentNeighbours() {
  {
    const MutexLock lock(mutex_);
    stop_ = true;
    changed_.NotifyAll();
  }
  look_.join();
  server_.reset();
}

absl::Status AgentNeighbours::ListenAt(const std::string& endpoint) {
  server_.reset();
  address_.clear();
  TANDEM_ASSIGN_OR_RETURN(
      server_,
      FrameServer::Create(
          endpoint, registry_.keys(), lease_,
          [this](const ReceivedFrame& request) { return Answer(request); }, nullptr,
          {.threads = options_.threads, .queued_bytes = options_.queued_bytes, .ttl = {}}));
  address_ = AddressIn(server_->endpoint());
  return absl::OkStatus();
}

void AgentNeighbours::UseRegistry() {
  std::map<std::string, std::string> users;
  std::set<std::string> hosts;
  std::vector<PeerTier::Member> members;
  for (const KnownPeer& known : known_) {
    users[known.peer.public_key] = known.peer.host;
    hosts.insert(known.peer.host);
    members.push_back(
        {.peer = known.peer, .keeps_copies = known.in_job && copies_ > 1, .in_job = known.in_job});
  }
  {
    const MutexLock lock(served_mutex_);
    served_ = std::move(hosts);
  }
  if (server_ != nullptr) server_->allowed().Replace(std::move(users));
  peers_.SetPeers(members);
}

absl::StatusOr<AgentPeer> AgentNeighbours::Listen(const std::string& address) {
  const MutexLock lock(mutex_);
  const std::string wanted = address.find(':') != std::string::npos ? "[" + address + "]" : address;
  if (server_ == nullptr || address_ != wanted) {
    TANDEM_RETURN_IF_ERROR(ListenAt("tcp://" + wanted + ":*"));
    UseRegistry();
  }
  AgentPeer self{.host = registry_.host(),
                 .endpoint = server_->endpoint(),
                 .public_key = registry_.keys().public_key};
  TANDEM_RETURN_IF_ERROR(CheckPeer(self));
  TANDEM_RETURN_IF_ERROR(registry_.WriteListens({.endpoint = self.endpoint, .copies = copies_}));
  return self;
}

absl::Status AgentNeighbours::Introduce(const AgentIntroduction& introduction) {
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> hosts, Learn(introduction));
  // Peers ask meanwhile, too: nothing is locked.
  if (peers_.Await(hosts, options_.patience)) return absl::OkStatus();
  return Unavailable("not all agents of the {} other hosts answer yet", hosts.size());
}

absl::StatusOr<std::vector<std::string>> AgentNeighbours::Learn(
    const AgentIntroduction& introduction) {
  const MutexLock lock(mutex_);
  std::map<std::string, KnownPeer> known;
  for (KnownPeer& before : registry_.Peers()) {
    before.in_job = false;
    known[before.peer.host] = std::move(before);
  }
  std::vector<std::string> hosts;
  for (const AgentPeer& peer : introduction.peers) {
    if (peer.host == registry_.host() || peer.public_key == registry_.keys().public_key) continue;
    known[peer.host] = {.peer = peer, .in_job = true, .met = SecondsNow()};
    hosts.push_back(peer.host);
  }
  std::vector<KnownPeer> all;
  all.reserve(known.size());
  for (auto& [host, peer] : known) all.push_back(std::move(peer));
  const absl::Status written = registry_.SetPeers(std::move(all));
  known_ = registry_.Peers();
  copies_ = introduction.copies;
  absl::Status noted;
  if (server_ != nullptr) {
    noted = registry_.WriteListens({.endpoint = server_->endpoint(), .copies = copies_});
  }
  UseRegistry();
  TANDEM_RETURN_IF_ERROR(written);
  TANDEM_RETURN_IF_ERROR(noted);
  return hosts;
}

void AgentNeighbours::RunLook() {
  const MutexLock lock(mutex_);
  while (!stop_) {
    changed_.WaitFor(mutex_, options_.look);
    if (stop_) return;
    const int64_t stamp = registry_.Stamp();
    if (std::exchange(stamp_, stamp) == stamp) continue;
    std::vector<KnownPeer> now = registry_.Peers();
    if (SamePeers(now, known_)) continue;
    for (const KnownPeer& before : known_) {
      const bool there = std::any_of(now.begin(), now.end(), [&](const KnownPeer& one) {
        return one.peer.host == before.peer.host;
      });
      if (!there) spdlog::info("host {} is dropped: its file is gone", before.peer.host);
    }
    known_ = std::move(now);
    UseRegistry();
  }
}

AgentParts AgentNeighbours::Answer(const ReceivedFrame& request) {
  return AnswerFrame(request.parts, [&](const AgentMessage& message) -> AgentMessage {
    {
      // Who was on the list when he connected may have been dropped since.
      const MutexLock lock(served_mutex_);
      if (!served_.contains(request.user)) {
        return AgentStatus{.status = absl::PermissionDeniedError("KV agent: you are not known")};
      }
    }
    return Do(message);
  });
}

AgentMessage AgentNeighbours::Do(const AgentMessage& request) {
  if (std::holds_alternative<AgentPing>(request)) return AgentStatus();
  lease_->Renew();
  if (const auto* erase = std::get_if<AgentErase>(&request)) {
    return AgentStatus{.status = here_.erase(erase->blocks)};
  }
  if (auto answer = DoWithTier(here_.tier, request, options_.answer_bytes)) {
    return *std::move(answer);
  }
  if (auto answer = copy_requests_.DoForPeer(request)) return *std::move(answer);
  if (std::holds_alternative<AgentStatsQuery>(request)) return here_.stats();
  return NoRequest(request);
}

}  // namespace tandem::kv_store
