#include "kv_store/base/zmq_tools.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <memory>
#include <system_error>
#include <utility>

#include "zmq_addon.hpp"

namespace tandem::kv_store {

CurveKeys MakeCurveKeys() {
  char public_key[41] = {};
  char secret_key[41] = {};
  if (zmq_curve_keypair(public_key, secret_key) != 0) throw zmq::error_t();
  return {.public_key = public_key, .secret_key = secret_key};
}

void SetSafeOptions(zmq::socket_t& socket, const SocketLimits& limits) {
  socket.set(zmq::sockopt::linger, 0);
  socket.set(zmq::sockopt::maxmsgsize, limits.largest_message);
  socket.set(zmq::sockopt::sndhwm, limits.queued_messages);
  socket.set(zmq::sockopt::rcvhwm, limits.queued_messages);
  // No ZMTP heartbeats. When a queue is full, libzmq stops reading; if the peer leaves then, it
  // keeps the broken connection until the queue has room again. A heartbeat due meanwhile writes to
  // it and ends the process (assertion !_io_error; in 4.3.5, too, kin of libzmq's issues 3596 and
  // 3937): whoever sends much and leaves would end the server.
  const int seconds = std::max(1, static_cast<int>(limits.heartbeat.count() / 1000));
  const int probes = static_cast<int>(limits.silence.count() / 1000) / seconds - 1;
  socket.set(zmq::sockopt::tcp_keepalive, 1);
  socket.set(zmq::sockopt::tcp_keepalive_idle, seconds);
  socket.set(zmq::sockopt::tcp_keepalive_intvl, seconds);
  socket.set(zmq::sockopt::tcp_keepalive_cnt, std::max(1, probes));
  socket.set(zmq::sockopt::reconnect_ivl, -1);
  socket.set(zmq::sockopt::ipv6, 1);
}

bool Liveness::Tick() {
  const auto now = std::chrono::steady_clock::now();
  quiet_ += std::min<std::chrono::steady_clock::duration>(now - ticked_, limits_.heartbeat);
  ticked_ = now;
  if (now - pinged_ < limits_.heartbeat) return false;
  pinged_ = now;
  return true;
}

std::string Liveness::Text() const {
  return fmt::format(
      "has sent nothing for {:.1f} s; its process is stopped, or its host is gone or overloaded",
      std::chrono::duration<double>(quiet_).count());
}

void BeCurveServer(zmq::socket_t& socket, const CurveKeys& keys) {
  socket.set(zmq::sockopt::curve_server, true);
  socket.set(zmq::sockopt::curve_secretkey, keys.secret_key);
}

void BeCurveClient(zmq::socket_t& socket, const CurveKeys& keys, const std::string& server_key) {
  socket.set(zmq::sockopt::curve_serverkey, server_key);
  socket.set(zmq::sockopt::curve_publickey, keys.public_key);
  socket.set(zmq::sockopt::curve_secretkey, keys.secret_key);
}

AllowList::AllowList(zmq::context_t& context, std::map<std::string, std::string> users)
    : socket_(context, zmq::socket_type::rep), users_(std::move(users)) {
  socket_.set(zmq::sockopt::linger, 0);
  socket_.bind("inproc://zeromq.zap.01");
}

void AllowList::Answer() {
  for (;;) {
    std::vector<zmq::message_t> request;
    if (!zmq::recv_multipart(socket_, std::back_inserter(request), zmq::recv_flags::dontwait)) {
      return;
    }
    // version, request id, domain, address, identity, mechanism, the client's key (32 bytes)
    std::string user;
    if (request.size() == 7 && request[5].to_string_view() == "CURVE" && request[6].size() == 32) {
      char key[41] = {};
      zmq_z85_encode(key, request[6].data<uint8_t>(), 32);
      const MutexLock lock(mutex_);
      const auto found = users_.find(key);
      if (found != users_.end()) user = found->second;
    }
    const std::string id = request.size() > 1 ? request[1].to_string() : std::string();
    const std::string frames[] = {
        "1.0", id, user.empty() ? "400" : "200", user.empty() ? "not on the list" : "OK", user, ""};
    for (size_t i = 0; i < 6; ++i) {
      socket_.send(zmq::buffer(frames[i]),
                   i < 5 ? zmq::send_flags::sndmore : zmq::send_flags::none);
    }
  }
}

void AllowList::Replace(std::map<std::string, std::string> users) {
  const MutexLock lock(mutex_);
  users_ = std::move(users);
}

std::string UserOf(zmq::message_t& message) {
  const char* user = zmq_msg_gets(message.handle(), "User-Id");
  return user == nullptr ? std::string() : std::string(user);
}

DisconnectMonitor::DisconnectMonitor(zmq::context_t& context, zmq::socket_t& watched, Watch watch)
    : watched_(watched), socket_(context, zmq::socket_type::pair) {
  // The name of one that is gone may be taken for a while yet.
  const std::string endpoint =
      fmt::format("inproc://monitor-{}-{}", static_cast<const void*>(this),
                  std::chrono::steady_clock::now().time_since_epoch().count());
  int events = ZMQ_EVENT_DISCONNECTED;
  // An attempt that fails closes its socket.
  if (watch == Watch::kAttempts) events |= ZMQ_EVENT_CLOSED;
  if (zmq_socket_monitor(watched_.handle(), endpoint.c_str(), events) != 0) {
    throw zmq::error_t();
  }
  socket_.set(zmq::sockopt::linger, 0);
  socket_.connect(endpoint);
}

DisconnectMonitor::~DisconnectMonitor() { zmq_socket_monitor(watched_.handle(), nullptr, 0); }

bool DisconnectMonitor::TakeDisconnected() {
  bool disconnected = false;
  for (;;) {
    std::vector<zmq::message_t> event;
    if (!zmq::recv_multipart(socket_, std::back_inserter(event), zmq::recv_flags::dontwait)) {
      return disconnected;
    }
    disconnected = true;  // nothing else was asked for
  }
}

bool DisconnectMonitor::Suspicious() {
  const auto now = std::chrono::steady_clock::now();
  if (TakeDisconnected()) suspicious_until_ = now + std::chrono::seconds(1);
  return now < suspicious_until_;
}

WakeUp::WakeUp() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
}

WakeUp::~WakeUp() { close(fd_); }

void WakeUp::Signal() const {
  // Fails only when the counter is at its end, and then it is signalled anyway.
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(fd_, &one, sizeof(one));
}

void WakeUp::Clear() const {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = read(fd_, &count, sizeof(count));
}

namespace {

SendOutcome TrySendMessages(zmq::socket_t& socket, std::string_view routing_id,
                            std::span<zmq::message_t> parts) {
  constexpr auto kMore = zmq::send_flags::sndmore | zmq::send_flags::dontwait;
  try {
    if (!routing_id.empty() && !socket.send(zmq::buffer(routing_id), kMore)) {
      return SendOutcome::kFull;
    }
    for (size_t i = 0; i < parts.size(); ++i) {
      const bool last = i + 1 == parts.size();
      if (!socket.send(parts[i], last ? zmq::send_flags::dontwait : kMore)) {
        return SendOutcome::kFull;
      }
    }
    return SendOutcome::kSent;
  } catch (const zmq::error_t& error) {
    if (error.num() == EHOSTUNREACH || error.num() == ENOTCONN) return SendOutcome::kGone;
    throw;
  }
}

/// A message of bytes that it holds on to until they are sent.
zmq::message_t MessageOf(const SharedBytes& bytes) {
  constexpr size_t kCopied = 1024;  // up to here that is faster
  if (bytes.size() <= kCopied) return {bytes.data(), bytes.size()};
  // ZeroMQ reads what it sends.
  return {const_cast<std::byte*>(bytes.data()), bytes.size(),
          [](void*, void* hold) { delete static_cast<SharedBytes*>(hold); },
          new SharedBytes(bytes)};
}

}  // namespace

SendOutcome TrySend(zmq::socket_t& socket, std::string_view routing_id,
                    std::span<const std::byte> frame) {
  zmq::message_t message(frame.data(), frame.size());
  return TrySendMessages(socket, routing_id, std::span(&message, 1));
}

SendOutcome TrySend(zmq::socket_t& socket, std::string_view routing_id,
                    std::span<const SharedBytes> parts) {
  std::vector<zmq::message_t> messages;
  messages.reserve(parts.size());
  for (const SharedBytes& part : parts) messages.push_back(MessageOf(part));
  return TrySendMessages(socket, routing_id, messages);
}

std::vector<zmq::message_t> TryReceive(zmq::socket_t& socket) {
  std::vector<zmq::message_t> parts;
  static_cast<void>(
      zmq::recv_multipart(socket, std::back_inserter(parts), zmq::recv_flags::dontwait));
  return parts;
}

std::vector<SharedBytes> TakeParts(std::vector<zmq::message_t> parts) {
  std::vector<SharedBytes> taken;
  taken.reserve(parts.size());
  for (zmq::message_t& part : parts) {
    auto owner = std::make_shared<zmq::message_t>(std::move(part));
    const std::span<const std::byte> bytes = BytesOf(*owner);
    taken.emplace_back(bytes, std::move(owner));
  }
  return taken;
}

std::span<const std::byte> BytesOf(const zmq::message_t& message) {
  return {static_cast<const std::byte*>(message.data()), message.size()};
}

bool PollOnce(std::span<zmq::pollitem_t> items, std::chrono::milliseconds timeout) {
  if (zmq_poll(items.data(), static_cast<int>(items.size()), timeout.count()) >= 0) return true;
  if (zmq_errno() == EINTR) return false;
  throw zmq::error_t();
}

}  // namespace tandem::kv_store
