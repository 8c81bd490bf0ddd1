#include "kv_store/agent/copy_requests.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

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

std::optional<AgentMessage> CopyRequests::DoForPeer(const AgentMessage& request) {
  if (std::holds_alternative<AgentCopyFind>(request)) return OwnCopies();
  const auto for_me = [](const std::string& to) {
    return to.empty() ? absl::OkStatus()
                      : InvalidArgument("KV agent: it passes nothing on to host {}", to);
  };
  if (const auto* append = std::get_if<AgentCopyAppend>(&request)) {
    absl::Status status = for_me(append->to);
    if (status.ok()) {
      auto position = copies_.Append(append->state, append->entries);
      if (position.ok()) return AgentCopyAt{.position = *std::move(position)};
      status = position.status();
    }
    return AgentStatus{.status = std::move(status)};
  }
  if (const auto* part = std::get_if<AgentCopyPart>(&request)) {
    absl::Status status = for_me(part->to);
    if (status.ok()) status = copies_.Take(part->state, part->part);
    return AgentStatus{.status = std::move(status)};
  }
  if (const auto* read = std::get_if<AgentCopyRead>(&request)) {
    absl::Status status = for_me(read->to);
    if (status.ok()) {
      auto page = copies_.Read(read->state, read->behind);
      if (page.ok()) return AgentCopyPage{.page = *std::move(page)};
      status = page.status();
    }
    return AgentStatus{.status = std::move(status)};
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
  const auto passed = [&](const auto& message, std::chrono::milliseconds deadline) -> AgentMessage {
    auto passed_on = message;
    passed_on.to.clear();
    return Pass(message.to, std::move(passed_on), deadline);
  };
  if (const auto* append = std::get_if<AgentCopyAppend>(&request)) {
    return passed(*append, options_.append_deadline);
  }
  if (const auto* part = std::get_if<AgentCopyPart>(&request)) {
    return passed(*part, options_.part_deadline);
  }
  if (const auto* read = std::get_if<AgentCopyRead>(&request)) {
    return passed(*read, options_.part_deadline);
  }
  return std::nullopt;
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
  std::vector<PeerCalls::Question> questions;
  for (const auto& peer : peers_.calls().Peers()) {
    questions.push_back({.peer = peer, .message = AgentCopyFind{.state = request.state}});
  }
  const auto answers = peers_.calls().Ask(questions, Clock::now() + options_.find_deadline);
  for (size_t i = 0; i < answers.size(); ++i) {
    const auto* told = answers[i].ok() ? std::get_if<AgentCopies>(&*answers[i]) : nullptr;
    if (told == nullptr) {
      all.silent.push_back(PeerCalls::WhoIs(*questions[i].peer).host);
      continue;
    }
    for (const AgentCopyOn& one : told->copies) {
      all.copies.push_back({PeerCalls::WhoIs(*questions[i].peer).host, one.copy});
    }
  }
  return all;
}

absl::Status CopyRequests::EraseEverywhere(const AgentCopyErase& erase) {
  absl::Status first = copies_.Erase(erase.state, erase.at, erase.ranges);
  std::vector<PeerCalls::Question> questions;
  for (const auto& peer : peers_.calls().Peers()) {
    questions.push_back({.peer = peer, .message = erase});
  }
  const auto answers = peers_.calls().Ask(questions, Clock::now() + options_.erase_deadline);
  for (size_t i = 0; i < answers.size() && first.ok(); ++i) {
    const auto* told = answers[i].ok() ? std::get_if<AgentStatus>(&*answers[i]) : nullptr;
    if (told != nullptr && told->status.ok()) continue;
    const std::string& host = PeerCalls::WhoIs(*questions[i].peer).host;
    first = Unavailable(
        "a copy of deleted conversations may be left on host {}: {}; if that host is gone for "
        "good, remove {}/{}",
        host,
        told != nullptr   ? Message(told->status)
        : answers[i].ok() ? "it answers what was not asked"
                          : Message(answers[i].status()),
        peers_.book_folder(), host);
  }
  return first;
}

}  // namespace tandem::kv_store
