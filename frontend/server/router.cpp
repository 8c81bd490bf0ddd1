#include "frontend/server/router.h"

#include <spdlog/spdlog.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "core/base/descriptor_limit.h"

namespace tandem::frontend {
namespace {

using std::chrono::milliseconds;

constexpr int kKernelSendBytes = 256 << 10;
constexpr size_t kReadBytes = 64 << 10;
constexpr size_t kJoinedBytes = 4096;
constexpr int64_t kMessageBytes = 2048;  // that a message costs besides its own
constexpr int kAcceptedATurn = 64;
constexpr milliseconds kHandshakeTime{10'000};
constexpr milliseconds kSurplusTime{1000};
constexpr milliseconds kDescriptorWait{200};

/// A name for a client without one. It begins with a zero byte and never comes back.
std::string MadeUpName(uint64_t number) {
  std::string name(1, '\0');
  return name.append(reinterpret_cast<const char*>(&number), sizeof(number));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Router>> Router::Bind(const RouterOptions& options,
                                                     std::string surplus) {
  if (options.listener) {
    return std::unique_ptr<Router>(
        new Router(options, std::move(*options.listener), std::move(surplus)));
  }
  TANDEM_ASSIGN_OR_RETURN(Listener listener, Listen(options.endpoint));
  return std::unique_ptr<Router>(new Router(options, std::move(listener), std::move(surplus)));
}

Router::Router(const RouterOptions& options, Listener listener, std::string surplus)
    : options_(options),
      listener_(std::move(listener)),
      surplus_(std::move(surplus)),
      read_bytes_(kReadBytes) {}

Router::~Router() = default;

void Router::Wait(int wake_fd, milliseconds timeout) {
  CloseOverdue();
  const Clock::time_point now = Clock::now();
  const bool accepts = !accept_again_at_ || now >= *accept_again_at_;
  if (!accepts) timeout = std::min(timeout, kDescriptorWait);
  polled_.assign({{wake_fd, POLLIN, 0}, {accepts ? listener_.socket.fd() : -1, POLLIN, 0}});
  for (const auto& [number, connection] : connections_) {
    const bool paused = Paused(*connection);
    if (!paused && connection->unread) timeout = milliseconds(0);
    auto events = static_cast<short>(POLLRDHUP);
    if (!paused) events = static_cast<short>(events | POLLIN);
    if (!connection->waiting.empty()) events = static_cast<short>(events | POLLOUT);
    polled_.push_back({connection->socket.fd(), events, 0});
  }
  // An interrupted or failed wait is a short one: the caller looks at everything anyway.
  if (poll(polled_.data(), polled_.size(), static_cast<int>(timeout.count())) <= 0) return;
  size_t at = 2;
  for (auto it = connections_.begin(); it != connections_.end(); ++at) {
    const int events = polled_[at].revents;
    Connection& connection = *it->second;
    const bool left = (events & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
    if (left && Paused(connection)) {
      it = Close(it);  // nobody reads what waits for it, nor what it still said
      continue;
    }
    connection.readable = connection.readable || left || (events & POLLIN) != 0;
    connection.writable = connection.writable || (events & POLLOUT) != 0;
    ++it;
  }
  if (polled_[1].revents != 0) AcceptWaiting();
}

void Router::AcceptWaiting() {
  accept_again_at_.reset();
  for (int i = 0; i < kAcceptedATurn; ++i) {
    Socket socket = Accept(listener_, kKernelSendBytes);
    if (socket.fd() < 0) {
      if (errno != EMFILE && errno != ENFILE) return;
      accept_again_at_ = Clock::now() + kDescriptorWait;
      if (std::exchange(told_of_descriptors_, true)) return;
      spdlog::warn(
          "no file descriptors are left for more clients: this process may have {} (ulimit -n); "
          "they wait until others leave",
          DescriptorLimit());
      return;
    }
    const int64_t others = static_cast<int64_t>(connections_.size()) - surplus_connections_;
    const bool surplus = others >= options_.clients;
    if (surplus && surplus_connections_ >= options_.surplus_clients) continue;
    auto connection = std::make_unique<Connection>(std::move(socket),
                                                   static_cast<uint64_t>(options_.frame_bytes));
    connection->surplus = surplus;
    surplus_connections_ += surplus ? 1 : 0;
    connection->ends_at = Clock::now() + (surplus ? kSurplusTime : kHandshakeTime);
    Queue(*connection, ZmtpGreeting());
    connections_[next_number_++] = std::move(connection);
  }
}

std::optional<Router::Incoming> Router::Receive(Clock::time_point until) {
  std::optional<Incoming> message;
  // About one round without a message.
  for (size_t left = connections_.size(); left > 0; --left) {
    const auto it = Next();
    if (it == connections_.end()) return std::nullopt;
    if (!Step(it->first, *it->second, message)) Close(it);
    if (message || Clock::now() >= until) return message;
  }
  return std::nullopt;
}

Router::Connections::iterator Router::Next() {
  auto next = connections_.end();
  double first = 0;  // what it will have been served at the end of its message
  for (auto it = connections_.begin(); it != connections_.end(); ++it) {
    Connection& connection = *it->second;
    const bool has_something = connection.readable || connection.unread;
    const bool takes_turns = has_something && !Paused(connection);
    if (takes_turns != std::exchange(connection.takes_turns, takes_turns)) {
      takes_turns ? turns_.Came(it->first) : turns_.Left(it->first);
    }
    if (!takes_turns) continue;
    const double ends_at = turns_.served(it->first) + static_cast<double>(connection.reader.left());
    if (next != connections_.end() && ends_at >= first) continue;
    first = ends_at;
    next = it;
  }
  return next;
}

bool Router::Step(uint64_t number, Connection& connection, std::optional<Incoming>& message) {
  bool has_read = false;  // once a turn
  for (;;) {
    ZmtpReader::Event event = connection.reader.Next();
    connection.unread = true;
    if (std::holds_alternative<ZmtpReader::NeedsBytes>(event)) {
      connection.unread = false;
      if (!connection.readable || std::exchange(has_read, true)) {
        return connection.waiting.empty() || Write(connection);
      }
      if (!Read(number, connection)) return false;
    } else if (std::holds_alternative<ZmtpReader::Broken>(event)) {
      return false;
    } else if (std::holds_alternative<ZmtpReader::Greeted>(event)) {
      Queue(connection, ZmtpReady());
    } else if (auto* ready = std::get_if<ZmtpReader::Ready>(&event)) {
      BecomeReady(number, connection, std::move(ready->identity));
    } else if (const auto* ping = std::get_if<ZmtpReader::Ping>(&event)) {
      Queue(connection, ZmtpPong(ping->context));
      if (Paused(connection)) return Write(connection);
    } else if (!connection.surplus) {
      auto& received = std::get<ZmtpReader::Message>(event);
      connection.envelope = received.envelope;
      turns_.Charge(number, kMessageBytes);
      message = Incoming{.client = connection.name,
                         .frame = std::move(received.frame),
                         .single = received.single,
                         .oversized = received.oversized};
      return true;
    }
  }
}

bool Router::Read(uint64_t number, Connection& connection) {
  const ssize_t bytes = recv(connection.socket.fd(), read_bytes_.data(), read_bytes_.size(), 0);
  if (bytes > 0) {
    turns_.Charge(number, bytes);
    connection.reader.Append({read_bytes_.data(), static_cast<size_t>(bytes)});
    connection.unread = true;
    return true;
  }
  if (bytes == 0) return false;
  connection.readable = errno == EINTR;
  return errno == EINTR || errno == EAGAIN || errno == EWOULDBLOCK;
}

void Router::BecomeReady(uint64_t number, Connection& connection, std::string identity) {
  if (connection.surplus) {
    Queue(connection, ZmtpMessage(surplus_, /*envelope=*/false));
    return;
  }
  connection.ends_at.reset();
  connection.name = identity.empty() ? MadeUpName(number) : std::move(identity);
  const auto [known, added] = by_name_.emplace(connection.name, number);
  if (added) return;
  // A client that comes back under its name before its old connection is known to be dead gets its
  // place; what waits on the old one it may ask for again.
  const auto old = connections_.find(std::exchange(known->second, number));
  old->second->name.clear();
  Close(old);
}

void Router::Queue(Connection& connection, std::string bytes) {
  connection.waiting_bytes += static_cast<int64_t>(bytes.size());
  waiting_bytes_ += static_cast<int64_t>(bytes.size());
  auto& waiting = connection.waiting;
  // Small ones are joined, so that many of them cost about what their bytes do.
  if (!waiting.empty() && waiting.back().size() + bytes.size() <= kJoinedBytes) {
    waiting.back().append(bytes);
  } else {
    waiting.push_back(std::move(bytes));
  }
}

bool Router::Write(Connection& connection) {
  while (!connection.waiting.empty()) {
    const std::string& first = connection.waiting.front();
    const ssize_t bytes = send(connection.socket.fd(), first.data() + connection.sent,
                               first.size() - connection.sent, MSG_NOSIGNAL);
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0) {
      connection.writable = false;
      return errno == EAGAIN || errno == EWOULDBLOCK;
    }
    connection.sent += static_cast<size_t>(bytes);
    connection.waiting_bytes -= bytes;
    waiting_bytes_ -= bytes;
    if (connection.sent < first.size()) continue;
    connection.sent = 0;
    connection.waiting.pop_front();
  }
  return true;
}

Delivery Router::Send(const std::string& client, std::string_view frame, bool must) {
  const auto found = by_name_.find(client);
  if (found == by_name_.end()) return Delivery::kGone;
  const auto at = connections_.find(found->second);
  Connection& connection = *at->second;
  if (!connection.waiting.empty()) {
    const auto bytes = static_cast<int64_t>(frame.size());
    const int factor = must ? 2 : 1;
    if (connection.waiting_bytes + bytes > options_.client_budget_bytes * factor ||
        waiting_bytes_ + bytes > options_.total_budget_bytes * factor) {
      return Delivery::kOverBudget;
    }
  }
  Queue(connection, ZmtpMessage(frame, connection.envelope));
  if (!connection.writable || Write(connection)) return Delivery::kSent;
  Close(at);
  return Delivery::kGone;
}

int64_t Router::WaitingFor(const std::string& client) const {
  const auto found = by_name_.find(client);
  return found == by_name_.end() ? 0 : connections_.at(found->second)->waiting_bytes;
}

void Router::Flush() {
  if (waiting_bytes_ == 0) return;
  for (auto it = connections_.begin(); it != connections_.end();) {
    Connection& connection = *it->second;
    const bool writes = connection.writable && !connection.waiting.empty();
    it = !writes || Write(connection) ? std::next(it) : Close(it);
  }
}

std::vector<std::string> Router::TakeVanished() { return std::exchange(vanished_, {}); }

Router::Connections::iterator Router::Close(Connections::iterator at) {
  const Connection& connection = *at->second;
  waiting_bytes_ -= connection.waiting_bytes;
  surplus_connections_ -= connection.surplus ? 1 : 0;
  if (connection.takes_turns) turns_.Left(at->first);
  if (!connection.name.empty()) {
    by_name_.erase(connection.name);
    vanished_.push_back(connection.name);
  }
  return connections_.erase(at);
}

void Router::CloseOverdue() {
  const Clock::time_point now = Clock::now();
  for (auto it = connections_.begin(); it != connections_.end();) {
    const auto& ends_at = it->second->ends_at;
    it = ends_at && now >= *ends_at ? Close(it) : std::next(it);
  }
}

}  // namespace tandem::frontend
