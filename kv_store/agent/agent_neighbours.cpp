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

AgentNeighbours::AgentNeighbours(PeerRegistry book, PeerTier& peers, Here here,
                                 std::shared_ptr<Lease> lease,
                                 const AgentNeighboursOptions& options)
    : options_(options),
      book_(std::move(book)),
      peers_(peers),
      here_(std::move(here)),
      lease_(std::move(lease)),
      journal_copies_({.folder = book_.directory() + "/conversations"}),
      copy_requests_(book_.host(), journal_copies_, peers_) {
  {
    const MutexLock lock(mutex_);
    if (const auto listens = book_.ReadListens()) {
      copies_ = listens->copies;
      if (const absl::Status status = ListenAt(listens->endpoint); !status.ok()) {
        spdlog::warn("{}; other hosts do not reach this agent until a job brings them together",
                     Message(status));
      }
    }
    known_ = book_.Peers();
    UseBook();
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
          endpoint, book_.keys(), lease_,
          [this](const ReceivedFrame& request) { return Answer(request); }, nullptr,
          {.threads = options_.threads, .queued_bytes = options_.queued_bytes, .ttl = {}}));
  address_ = AddressIn(server_->endpoint());
  return absl::OkStatus();
}

void AgentNeighbours::UseBook() {
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
    UseBook();
  }
  AgentPeer self{
      .host = book_.host(), .endpoint = server_->endpoint(), .public_key = book_.keys().public_key};
  TANDEM_RETURN_IF_ERROR(CheckPeer(self));
  TANDEM_RETURN_IF_ERROR(book_.WriteListens({.endpoint = self.endpoint, .copies = copies_}));
  return self;
}

absl::Status AgentNeighbours::Meet(const AgentMeet& meeting) {
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> hosts, Learn(meeting));
  // Peers ask meanwhile, too: nothing is locked.
  if (peers_.Await(hosts, options_.patience)) return absl::OkStatus();
  return Unavailable("not all agents of the {} other hosts answer yet", hosts.size());
}

absl::StatusOr<std::vector<std::string>> AgentNeighbours::Learn(const AgentMeet& meeting) {
  const MutexLock lock(mutex_);
  std::map<std::string, KnownPeer> known;
  for (KnownPeer& before : book_.Peers()) {
    before.in_job = false;
    known[before.peer.host] = std::move(before);
  }
  std::vector<std::string> hosts;
  for (const AgentPeer& peer : meeting.peers) {
    if (peer.host == book_.host() || peer.public_key == book_.keys().public_key) continue;
    known[peer.host] = {.peer = peer, .in_job = true, .met = SecondsNow()};
    hosts.push_back(peer.host);
  }
  std::vector<KnownPeer> all;
  for (auto& [host, peer] : known) all.push_back(std::move(peer));
  const absl::Status written = book_.SetPeers(std::move(all));
  known_ = book_.Peers();
  copies_ = meeting.copies;
  absl::Status noted;
  if (server_ != nullptr) {
    noted = book_.WriteListens({.endpoint = server_->endpoint(), .copies = copies_});
  }
  UseBook();
  TANDEM_RETURN_IF_ERROR(written);
  TANDEM_RETURN_IF_ERROR(noted);
  return hosts;
}

void AgentNeighbours::RunLook() {
  const MutexLock lock(mutex_);
  while (!stop_) {
    changed_.WaitFor(mutex_, options_.look);
    if (stop_) return;
    const int64_t stamp = book_.Stamp();
    if (std::exchange(stamp_, stamp) == stamp) continue;
    std::vector<KnownPeer> now = book_.Peers();
    if (SamePeers(now, known_)) continue;
    for (const KnownPeer& before : known_) {
      const bool there = std::any_of(now.begin(), now.end(), [&](const KnownPeer& one) {
        return one.peer.host == before.peer.host;
      });
      if (!there) spdlog::info("host {} is dropped: its file is gone", before.peer.host);
    }
    known_ = std::move(now);
    UseBook();
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
    return AgentStatus{.status = here_.drop(erase->blocks)};
  }
  if (auto answer = DoWithTier(here_.tier, request, options_.answer_bytes)) {
    return *std::move(answer);
  }
  if (auto answer = copy_requests_.DoForPeer(request)) return *std::move(answer);
  if (std::holds_alternative<AgentStatsQuery>(request)) return here_.stats();
  return NoRequest(request);
}

}  // namespace tandem::kv_store
