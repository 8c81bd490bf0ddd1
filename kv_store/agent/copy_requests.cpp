#include "kv_store/agent/copy_requests.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "kv_store/agent_link/agent_answers.h"
#include "kv_store/base/rendezvous.h"

namespace tandem::kv_store {
namespace {

using Clock = PeerCalls::Clock;

/// Of the hosts, that which is to keep a state's copy.
std::string KeeperOf(const StateId& state, const std::vector<std::string>& hosts) {
  uint64_t bits = 0;
  std::memcpy(&bits, state.data(), sizeof(bits));
  const auto best = std::max_element(hosts.begin(), hosts.end(),
                                     [bits](const std::string& a, const std::string& b) {
                                       return RendezvousScore(bits, a) < RendezvousScore(bits, b);
                                     });
  return best == hosts.end() ? "" : *best;
}

/// The host whose agent is meant; null for messages that name none.
const std::string* AddresseeOf(const AgentMessage& request) {
  return std::visit(
      [](const auto& message) -> const std::string* {
        if constexpr (requires { message.to; }) return &message.to;
        return nullptr;
      },
      request);
}

AgentMessage PassedOn(AgentMessage request) {
  std::visit(
      [](auto& message) {
        if constexpr (requires { message.to; }) message.to.clear();
      },
      request);
  return request;
}

}  // namespace

bool IsOfCopies(const AgentMessage& request) {
  const auto is_any_of = [&]<typename... Kinds>() {
    return (std::holds_alternative<Kinds>(request) || ...);
  };
  return is_any_of.template operator()<AgentCopyFind, AgentCopyAppend, AgentCopyPart, AgentCopyRead,
                                       AgentCopyErase, AgentCopyFence>();
}

AgentCopies CopyRequests::OwnCopies() {
  AgentCopies own;
  own.self = host_;
  for (JournalCopy& copy : copies_.List()) own.copies.push_back({host_, std::move(copy)});
  return own;
}

AgentMessage CopyRequests::Append(const AgentCopyAppend& request) {
  auto position = copies_.Append(request.state, request.entries);
  if (!position.ok()) return AgentStatus{.status = position.status()};
  return AgentCopyAt{.position = *std::move(position)};
}

AgentMessage CopyRequests::Read(const AgentCopyRead& request) {
  auto page = copies_.Read(request.state, request.behind);
  if (!page.ok()) return AgentStatus{.status = page.status()};
  return AgentCopyPage{.page = *std::move(page)};
}

std::optional<AgentMessage> CopyRequests::DoForPeer(const AgentMessage& request) {
  if (const std::string* to = AddresseeOf(request); to != nullptr && !to->empty()) {
    return AgentStatus{.status = InvalidArgument("KV agent: it passes nothing on to host {}", *to)};
  }
  if (std::holds_alternative<AgentCopyFind>(request)) return OwnCopies();
  if (const auto* append = std::get_if<AgentCopyAppend>(&request)) return Append(*append);
  if (const auto* read = std::get_if<AgentCopyRead>(&request)) return Read(*read);
  if (const auto* part = std::get_if<AgentCopyPart>(&request)) {
    return AgentStatus{.status = copies_.Take(part->state, part->part)};
  }
  if (const auto* erase = std::get_if<AgentCopyErase>(&request)) {
    return AgentStatus{.status = copies_.Erase(erase->state, erase->at, erase->ranges)};
  }
  return std::nullopt;
}

std::optional<AgentMessage> CopyRequests::DoForThisHost(const AgentMessage& request) {
  if (const auto* find = std::get_if<AgentCopyFind>(&request)) return Find(*find);
  if (const auto* fence = std::get_if<AgentCopyFence>(&request)) {
    return AgentStatus{.status = copies_.Fence(fence->state, fence->at)};
  }
  if (const auto* erase = std::get_if<AgentCopyErase>(&request)) {
    return AgentStatus{.status = EraseEverywhere(*erase)};
  }
  const std::string* to = AddresseeOf(request);
  if (to == nullptr) return std::nullopt;
  const bool is_append = std::holds_alternative<AgentCopyAppend>(request);
  return Pass(*to, PassedOn(request),
              is_append ? options_.append_deadline : options_.part_deadline);
}

AgentMessage CopyRequests::Pass(const std::string& to, AgentMessage passed_on,
                                std::chrono::milliseconds deadline) {
  if (to == host_) return *DoForPeer(passed_on);
  for (const PeerCalls::PeerPointer& peer : peers_.calls().Peers()) {
    if (PeerCalls::WhoIs(*peer).host != to) continue;
    auto answers = peers_.calls().Ask({{.peer = peer, .message = std::move(passed_on)}},
                                      Clock::now() + deadline);
    if (answers.front().ok()) return *std::move(answers.front());
    return AgentStatus{.status = answers.front().status()};
  }
  return AgentStatus{.status = Unavailable("KV agent: host {} is not known", to)};
}

AgentCopies CopyRequests::Find(const AgentCopyFind& request) {
  if (request.patient) {
    std::vector<std::string> hosts;
    for (const auto& peer : peers_.calls().Peers()) hosts.push_back(PeerCalls::WhoIs(*peer).host);
    static_cast<void>(peers_.Await(hosts, options_.find_deadline));
  }
  AgentCopies all = OwnCopies();
  all.keeper = KeeperOf(request.state, peers_.UpInJob());
  const auto peers = peers_.calls().Peers();
  auto answers = peers_.calls().AskAll(peers, AgentCopyFind{.state = request.state},
                                       Clock::now() + options_.find_deadline);
  for (size_t i = 0; i < peers.size(); ++i) {
    const std::string& host = PeerCalls::WhoIs(*peers[i]).host;
    auto told = Expect<AgentCopies>(std::move(answers[i]));
    if (!told.ok()) {
      all.silent.push_back(host);
      continue;
    }
    for (AgentCopyOn& one : told->copies) all.copies.push_back({host, std::move(one.copy)});
  }
  return all;
}

absl::Status CopyRequests::EraseEverywhere(const AgentCopyErase& erase) {
  absl::Status here = copies_.Erase(erase.state, erase.at, erase.ranges);
  const absl::Status there = peers_.EraseOnAll(erase, "a copy of deleted conversations",
                                               Clock::now() + options_.erase_deadline);
  return here.ok() ? there : here;
}

}  // namespace tandem::kv_store
