#include "frontend/server/router.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

namespace tandem::frontend {
namespace {

// A frame just above the limit is read and answered; libzmq drops the connection of one this many
// times larger, without a word.
constexpr int64_t kDroppedAboveLimits = 16;
constexpr int kSendQueue = 64;     // messages a client, in libzmq
constexpr int kReceiveQueue = 64;  // messages a client, in libzmq
constexpr int kKernelSendBytes = 256 << 10;
constexpr int kHeartbeatMillis = 5000;
constexpr int kHeartbeatTimeoutMillis = 15000;
constexpr int kLingerMillis = 1000;
constexpr std::chrono::milliseconds kRetryInterval{5};
constexpr const char* kMonitor = "inproc://monitor";

absl::Status CannotListen(const std::string& endpoint, int error) {
  switch (error) {
    case EADDRINUSE:
      return FailedPrecondition(
          "cannot listen on {}: the address is in use; stop the server that has it, or choose "
          "another with --listen",
          endpoint);
    case EADDRNOTAVAIL:
    case ENODEV:
      return FailedPrecondition(
          "cannot listen on {}: this host has no such address; use one of its own, 127.0.0.1 for "
          "this host only, or 0.0.0.0 for all networks",
          endpoint);
    case EINVAL:
    case EPROTONOSUPPORT:
    case ENOCOMPATPROTO:
      return InvalidArgument(
          "cannot listen on \"{}\": expected an endpoint like tcp://127.0.0.1:5555 or "
          "ipc:///run/tandem.sock",
          endpoint);
    default:
      return FailedPrecondition("cannot listen on {}: {}", endpoint, zmq_strerror(error));
  }
}

/// libzmq takes an ipc path away from a server that lives; ask whether one answers there.
absl::Status CheckIpcPath(const std::string& endpoint) {
  const std::string path = endpoint.substr(std::strlen("ipc://"));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return InvalidArgument("cannot listen on {}: expected a path of 1 to {} bytes after ipc://",
                           endpoint, sizeof(address.sun_path) - 1);
  }
  struct stat file {};
  if (path[0] == '@' || lstat(path.c_str(), &file) != 0) return absl::OkStatus();
  if (!S_ISSOCK(file.st_mode)) {
    return FailedPrecondition("cannot listen on {}: {} is a file, and not a socket", endpoint,
                              path);
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool alive = connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  close(fd);
  return alive ? CannotListen(endpoint, EADDRINUSE) : absl::OkStatus();
}

absl::Status CheckEndpoint(const std::string& endpoint) {
  if (endpoint.starts_with("ipc://")) return CheckIpcPath(endpoint);
  // libzmq takes port 99999 for 34463.
  constexpr int kHighestPort = 65535;
  const std::string port = endpoint.substr(endpoint.rfind(':') + 1);
  const bool digits = !port.empty() && port.size() <= 5 &&
                      port.find_first_not_of("0123456789") == std::string::npos;
  const bool wanted = port == "*" || (digits && std::stoi(port) <= kHighestPort);
  if (endpoint.starts_with("tcp://") && wanted) return absl::OkStatus();
  return CannotListen(endpoint, EINVAL);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Router>> Router::Bind(const RouterOptions& options) {
  TANDEM_RETURN_IF_ERROR(CheckEndpoint(options.endpoint));
  try {
    auto context = std::make_unique<zmq::context_t>(/*io_threads=*/1);
    zmq::socket_t socket(*context, zmq::socket_type::router);
    socket.set(zmq::sockopt::router_mandatory, true);
    // A client that comes back under its name before its old connection is known to be dead gets
    // its place.
    socket.set(zmq::sockopt::router_handover, true);
    socket.set(zmq::sockopt::maxmsgsize, options.frame_bytes * kDroppedAboveLimits);
    socket.set(zmq::sockopt::sndhwm, kSendQueue);
    socket.set(zmq::sockopt::rcvhwm, kReceiveQueue);
    socket.set(zmq::sockopt::sndbuf, kKernelSendBytes);
    socket.set(zmq::sockopt::linger, kLingerMillis);
    socket.set(zmq::sockopt::heartbeat_ivl, kHeartbeatMillis);
    socket.set(zmq::sockopt::heartbeat_timeout, kHeartbeatTimeoutMillis);
    socket.set(zmq::sockopt::ipv6, options.endpoint.find('[') != std::string::npos);
    if (zmq_socket_monitor(socket.handle(), kMonitor, ZMQ_EVENT_DISCONNECTED) != 0) {
      return Internal("cannot watch the connections of {}: {}", options.endpoint,
                      zmq_strerror(zmq_errno()));
    }
    zmq::socket_t monitor(*context, zmq::socket_type::pair);
    monitor.set(zmq::sockopt::rcvhwm, 0);
    monitor.set(zmq::sockopt::linger, 0);
    monitor.connect(kMonitor);
    socket.bind(options.endpoint);
    std::string endpoint = socket.get(zmq::sockopt::last_endpoint);
    if (endpoint.starts_with("ipc:///")) {
      (void)chmod(endpoint.c_str() + std::strlen("ipc://"), S_IRUSR | S_IWUSR);
    }
    return std::unique_ptr<Router>(new Router(options, std::move(context), std::move(socket),
                                              std::move(monitor), std::move(endpoint)));
  } catch (const zmq::error_t& error) {
    return CannotListen(options.endpoint, error.num());
  }
}

Router::Router(const RouterOptions& options, std::unique_ptr<zmq::context_t> context,
               zmq::socket_t socket, zmq::socket_t monitor, std::string endpoint)
    : options_(options),
      context_(std::move(context)),
      socket_(std::move(socket)),
      monitor_(std::move(monitor)),
      endpoint_(std::move(endpoint)) {}

Router::~Router() { zmq_socket_monitor(socket_.handle(), nullptr, 0); }

void Router::Wait(int wake_fd, std::chrono::milliseconds timeout) {
  if (waiting_bytes_ > 0) timeout = std::min(timeout, kRetryInterval);
  std::array<zmq_pollitem_t, 3> items{{{socket_.handle(), 0, ZMQ_POLLIN, 0},
                                       {monitor_.handle(), 0, ZMQ_POLLIN, 0},
                                       {nullptr, wake_fd, ZMQ_POLLIN, 0}}};
  // An interrupted or failed wait is a short one: the caller looks at everything anyway.
  (void)zmq_poll(items.data(), static_cast<int>(items.size()), static_cast<long>(timeout.count()));
}

std::optional<Router::Incoming> Router::Receive() {
  DrainMonitor();
  zmq::message_t part;
  if (zmq_msg_recv(part.handle(), socket_.handle(), ZMQ_DONTWAIT) < 0) return std::nullopt;
  Incoming incoming{.client = part.to_string(), .frame = ""};
  int frames = 0;
  bool envelope = false;
  int fd = -1;
  while (part.more()) {
    part.rebuild();
    if (zmq_msg_recv(part.handle(), socket_.handle(), 0) < 0) break;
    fd = zmq_msg_get(part.handle(), ZMQ_SRCFD);
    if (frames == 0 && part.size() == 0 && part.more()) {
      envelope = true;
      continue;
    }
    ++frames;
    incoming.frame = part.to_string();
  }
  incoming.single = frames == 1;
  DrainMonitor();
  Peer& peer = peers_[incoming.client];
  peer.envelope = envelope;
  if (peer.fd != fd) {
    const auto old = client_of_fd_.find(peer.fd);
    if (old != client_of_fd_.end() && old->second == incoming.client) client_of_fd_.erase(old);
    peer.fd = fd;
    if (fd >= 0) {
      // Whoever had this descriptor before is gone, even if its last message came after its
      // leaving.
      const auto before = client_of_fd_.find(fd);
      if (before != client_of_fd_.end()) {
        vanished_.push_back(before->second);
        Drop(vanished_.back());
      }
      client_of_fd_[fd] = incoming.client;
    }
  }
  return incoming;
}

void Router::DrainMonitor() {
  zmq::message_t part;
  while (zmq_msg_recv(part.handle(), monitor_.handle(), ZMQ_DONTWAIT) >= 0) {
    // First frame: event number (16 bits) and value (32 bits), here the descriptor that closed.
    uint16_t event = 0;
    int32_t fd = -1;
    if (part.size() >= sizeof(event) + sizeof(fd)) {
      std::memcpy(&event, part.data(), sizeof(event));
      std::memcpy(&fd, static_cast<const char*>(part.data()) + sizeof(event), sizeof(fd));
    }
    while (part.more()) {
      part.rebuild();
      if (zmq_msg_recv(part.handle(), monitor_.handle(), 0) < 0) break;
    }
    part.rebuild();
    const auto found = client_of_fd_.find(fd);
    if (event != ZMQ_EVENT_DISCONNECTED || found == client_of_fd_.end()) continue;
    const std::string client = found->second;
    Drop(client);
    vanished_.push_back(client);
  }
}

std::vector<std::string> Router::TakeVanished() {
  DrainMonitor();
  return std::exchange(vanished_, {});
}

Router::Attempt Router::TrySend(const std::string& client, const Peer& peer,
                                std::string_view frame) {
  void* socket = socket_.handle();
  if (zmq_send(socket, client.data(), client.size(), ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0) {
    return zmq_errno() == EAGAIN || zmq_errno() == EINTR ? Attempt::kFull : Attempt::kGone;
  }
  if (peer.envelope) (void)zmq_send(socket, "", 0, ZMQ_SNDMORE | ZMQ_DONTWAIT);
  (void)zmq_send(socket, frame.data(), frame.size(), ZMQ_DONTWAIT);
  return Attempt::kSent;
}

Router::Delivery Router::Send(const std::string& client, std::string frame, bool must) {
  const auto found = peers_.find(client);
  if (found == peers_.end()) return Delivery::kGone;
  Peer& peer = found->second;
  if (peer.waiting.empty()) {
    const Attempt attempt = TrySend(client, peer, frame);
    if (attempt == Attempt::kSent) return Delivery::kSent;
    if (attempt == Attempt::kGone) {
      Drop(client);
      return Delivery::kGone;
    }
  }
  const auto bytes = static_cast<int64_t>(frame.size());
  const int factor = must ? 2 : 1;
  if (peer.waiting_bytes + bytes > options_.client_budget_bytes * factor ||
      waiting_bytes_ + bytes > options_.total_budget_bytes * factor) {
    return Delivery::kOverBudget;
  }
  peer.waiting.push_back(std::move(frame));
  peer.waiting_bytes += bytes;
  waiting_bytes_ += bytes;
  return Delivery::kSent;
}

void Router::Flush() {
  if (waiting_bytes_ == 0) return;
  std::vector<std::string> gone;
  for (auto& [client, peer] : peers_) {
    while (!peer.waiting.empty()) {
      const Attempt attempt = TrySend(client, peer, peer.waiting.front());
      if (attempt == Attempt::kGone) gone.push_back(client);
      if (attempt != Attempt::kSent) break;
      const auto bytes = static_cast<int64_t>(peer.waiting.front().size());
      peer.waiting_bytes -= bytes;
      waiting_bytes_ -= bytes;
      peer.waiting.pop_front();
    }
  }
  for (const std::string& client : gone) {
    Drop(client);
    vanished_.push_back(client);
  }
}

void Router::Drop(const std::string& client) {
  const auto found = peers_.find(client);
  if (found == peers_.end()) return;
  waiting_bytes_ -= found->second.waiting_bytes;
  client_of_fd_.erase(found->second.fd);
  peers_.erase(found);
}

}  // namespace tandem::frontend
