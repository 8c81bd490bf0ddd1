#include "kv_store/peers/peer_calls.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

namespace tandem::kv_store {
namespace {

constexpr size_t kMostIdle = 8;        // connections to a peer that nobody uses
constexpr size_t kPingsAtOnce = 64;    // peers
constexpr int kMostSockets = 1 << 14;  // of this host's agent
constexpr int kSocketThreads = 2;      // they encrypt

}  // namespace

struct PeerCalls::Peer {
  explicit Peer(AgentPeer peer) : who(std::move(peer)) {}

  const AgentPeer who;
  bool up ABSL_GUARDED_BY(&PeerCalls::mutex_) = false;
  Clock::time_point next_ping ABSL_GUARDED_BY(&PeerCalls::mutex_);  // while it is down
  std::chrono::milliseconds retry ABSL_GUARDED_BY(&PeerCalls::mutex_){0};
  std::vector<std::unique_ptr<AgentConnection>> idle ABSL_GUARDED_BY(&PeerCalls::mutex_);
};

/// A question under way.
struct PeerCalls::Asked {
  PeerPointer peer;
  uint64_t call = 0;
  AgentParts parts;
  std::unique_ptr<AgentConnection> connection;
  bool fresh = false;  // the connection was made for it
  std::optional<absl::StatusOr<AgentMessage>> answer;
};

const AgentPeer& PeerCalls::WhoIs(const Peer& peer) { return peer.who; }

PeerCalls::PeerCalls(CurveKeys keys, const PeerCallsOptions& options)
    : keys_(std::move(keys)), options_(options), context_(kSocketThreads, kMostSockets) {
  pings_ = std::thread([this] { RunPings(); });
}

PeerCalls::~PeerCalls() {
  {
    const MutexLock lock(mutex_);
    stop_ = true;
    changed_.NotifyAll();
  }
  pings_.join();
}

void PeerCalls::SetPeers(const std::vector<AgentPeer>& peers) {
  const MutexLock lock(mutex_);
  std::vector<PeerPointer> all;
  for (const AgentPeer& who : peers) {
    const auto known = std::find_if(peers_.begin(), peers_.end(),
                                    [&](const PeerPointer& peer) { return peer->who == who; });
    PeerPointer peer = known != peers_.end() ? *known : std::make_shared<Peer>(who);
    // Whoever is named anew has a reason to be there.
    if (!peer->up) {
      peer->next_ping = Clock::now();
      peer->retry = options_.first_retry;
    }
    all.push_back(std::move(peer));
  }
  peers_ = std::move(all);
  changed_.NotifyAll();
}

std::vector<PeerCalls::PeerPointer> PeerCalls::Peers() const {
  const MutexLock lock(mutex_);
  return peers_;
}

bool PeerCalls::IsUp(const Peer& peer) const {
  const MutexLock lock(mutex_);
  return peer.up;
}

bool PeerCalls::Await(const std::vector<std::string>& hosts, Clock::time_point deadline) {
  const MutexLock lock(mutex_);
  while (!AreUp(hosts)) {
    if (!changed_.WaitUntil(mutex_, deadline)) return AreUp(hosts);
  }
  return true;
}

bool PeerCalls::AreUp(const std::vector<std::string>& hosts) const {
  std::set<std::string> up;
  for (const PeerPointer& peer : peers_) {
    if (peer->up) up.insert(peer->who.host);
  }
  return std::all_of(hosts.begin(), hosts.end(),
                     [&](const std::string& host) { return up.contains(host); });
}

std::unique_ptr<AgentConnection> PeerCalls::Connect(const AgentPeer& peer) {
  auto connection =
      std::make_unique<AgentConnection>(context_, DisconnectMonitor::Watch::kAttempts);
  BeCurveClient(connection->socket, keys_, peer.public_key);
  connection->socket.connect(peer.endpoint);
  return connection;
}

void PeerCalls::Begin(Asked& asked, bool fresh) {
  asked.connection.reset();
  if (!fresh) {
    const MutexLock lock(mutex_);
    if (!asked.peer->idle.empty()) {
      asked.connection = std::move(asked.peer->idle.back());
      asked.peer->idle.pop_back();
    }
  }
  asked.fresh = asked.connection == nullptr;
  try {
    if (asked.fresh) asked.connection = Connect(asked.peer->who);
    if (TrySend(asked.connection->socket, "", asked.parts) == SendOutcome::kSent) return;
    if (!asked.fresh) return Begin(asked, true);
    asked.answer = Unavailable("it takes no message");
  } catch (const zmq::error_t& error) {
    asked.answer = Unavailable("{}", error.what());
  }
}

void PeerCalls::Look(Asked& asked, bool readable, bool event) {
  AgentConnection& connection = *asked.connection;
  while (readable) {
    const AgentParts parts = TakeParts(TryReceive(connection.socket));
    if (parts.empty()) break;
    absl::StatusOr<AgentFrame> frame = DecodeAgentFrame(parts);
    if (!frame.ok()) {
      asked.answer = frame.status();
      return;
    }
    if (frame->call != asked.call) continue;
    asked.answer = std::move(frame->message);
    return;
  }
  if (!event || !connection.monitor.TakeDisconnected()) return;
  // A connection that lay idle may be one to an agent that has gone and come back since.
  if (!asked.fresh) return Begin(asked, true);
  asked.answer = Unavailable("it is gone, or does not know this host yet");
}

void PeerCalls::Poll(std::vector<Asked>& all, Clock::time_point deadline) {
  for (;;) {
    std::vector<zmq::pollitem_t> items;
    std::vector<Asked*> open;
    for (Asked& asked : all) {
      if (asked.answer) continue;
      open.push_back(&asked);
      items.push_back({asked.connection->socket.handle(), 0, ZMQ_POLLIN, 0});
      items.push_back({asked.connection->monitor.socket().handle(), 0, ZMQ_POLLIN, 0});
    }
    if (open.empty()) return;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    if (left.count() <= 0) {
      for (Asked* asked : open) asked->answer = absl::DeadlineExceededError("no answer in time");
      return;
    }
    try {
      if (!PollOnce(items, left)) continue;
      for (size_t i = 0; i < open.size(); ++i) {
        Look(*open[i], Readable(items[2 * i]), Readable(items[2 * i + 1]));
      }
    } catch (const zmq::error_t& error) {
      for (Asked* asked : open) {
        if (!asked->answer) asked->answer = Unavailable("{}", error.what());
      }
    }
  }
}

/// Who has answered is up, who has not is down.
void PeerCalls::Note(std::vector<Asked>& all) {
  const auto now = Clock::now();
  const MutexLock lock(mutex_);
  for (Asked& asked : all) {
    Peer& peer = *asked.peer;
    if (asked.answer->ok()) {
      peer.up = true;
      if (peer.idle.size() < kMostIdle) peer.idle.push_back(std::move(asked.connection));
      continue;
    }
    peer.retry = peer.up ? options_.first_retry
                         : std::clamp(2 * peer.retry, options_.first_retry, options_.last_retry);
    peer.up = false;
    peer.next_ping = now + peer.retry;
    peer.idle.clear();
  }
  changed_.NotifyAll();
}

std::vector<absl::StatusOr<AgentMessage>> PeerCalls::AskAll(const std::vector<PeerPointer>& peers,
                                                            const AgentMessage& message,
                                                            Clock::time_point deadline) {
  std::vector<Question> questions;
  questions.reserve(peers.size());
  for (const PeerPointer& peer : peers) questions.push_back({.peer = peer, .message = message});
  return Ask(questions, deadline);
}

std::vector<absl::StatusOr<AgentMessage>> PeerCalls::AskAnyway(
    const std::vector<Question>& questions, Clock::time_point deadline) {
  std::vector<Asked> all(questions.size());
  for (size_t i = 0; i < all.size(); ++i) {
    all[i].peer = questions[i].peer;
    all[i].call = next_call_.fetch_add(1);
    all[i].parts = EncodeAgentFrame({.call = all[i].call, .message = questions[i].message});
    Begin(all[i], false);
  }
  Poll(all, deadline);
  Note(all);
  std::vector<absl::StatusOr<AgentMessage>> answers;
  answers.reserve(all.size());
  for (Asked& asked : all) {
    if (asked.answer->ok()) {
      answers.push_back(std::move(*asked.answer));
      continue;
    }
    const AgentPeer& who = asked.peer->who;
    const absl::Status& why = asked.answer->status();
    answers.emplace_back(absl::Status(
        why.code(),
        fmt::format("KV agent of host {} at {}: {}", who.host, who.endpoint, Message(why))));
  }
  return answers;
}

std::vector<absl::StatusOr<AgentMessage>> PeerCalls::Ask(const std::vector<Question>& questions,
                                                         Clock::time_point deadline) {
  std::vector<Question> up;
  std::vector<size_t> places;
  std::vector<absl::StatusOr<AgentMessage>> answers;
  answers.reserve(questions.size());
  for (size_t i = 0; i < questions.size(); ++i) {
    const AgentPeer& who = questions[i].peer->who;
    answers.emplace_back(
        Unavailable("KV agent of host {} at {}: it does not answer", who.host, who.endpoint));
    if (!IsUp(*questions[i].peer)) continue;
    up.push_back(questions[i]);
    places.push_back(i);
  }
  if (up.empty()) return answers;
  std::vector<absl::StatusOr<AgentMessage>> got = AskAnyway(up, deadline);
  for (size_t k = 0; k < got.size(); ++k) answers[places[k]] = std::move(got[k]);
  return answers;
}

std::vector<PeerCalls::Question> PeerCalls::DuePings(Clock::time_point& next) {
  const auto now = Clock::now();
  next = now + options_.last_retry;
  std::vector<Question> due;
  for (const PeerPointer& peer : peers_) {
    if (peer->up) continue;
    if (peer->next_ping <= now && due.size() < kPingsAtOnce) {
      due.push_back({.peer = peer, .message = AgentPing()});
    } else {
      next = std::min(next, peer->next_ping);
    }
  }
  return due;
}

void PeerCalls::RunPings() {
  MutexLock lock(mutex_);
  while (!stop_) {
    Clock::time_point next;
    const std::vector<Question> due = DuePings(next);
    if (due.empty()) {
      changed_.WaitUntil(mutex_, next);
      continue;
    }
    lock.Unlock();
    static_cast<void>(AskAnyway(due, Clock::now() + options_.ping_deadline));
    lock.Lock();
  }
}

}  // namespace tandem::kv_store
