#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>
#include <zmq.hpp>

#include "core/base/status.h"

namespace tandem::frontend {

struct RouterOptions {
  std::string endpoint = "tcp://127.0.0.1:5555";  // or ipc:///path; port * picks a free one
  int64_t frame_bytes = int64_t{1} << 20;         // the largest frame that is worth reading
  /// Bytes that may wait for one client, beyond what ZeroMQ and the kernel hold.
  int64_t client_budget_bytes = int64_t{4} << 20;
  int64_t total_budget_bytes = int64_t{256} << 20;  // for all clients together
};

/// A server's ROUTER socket with what a public one needs: every client has a bounded queue of its
/// own, one that is gone is noticed at once, and no peer can make it block or throw.
///
/// Thread safety: one thread, the one that called Bind.
class Router {
 public:
  struct Incoming {
    std::string client;  // connection identity
    std::string frame;
    bool single = true;  // false: the message had several frames (`frame` is the last)
  };
  enum class Delivery : uint8_t {
    kSent,        // handed to ZeroMQ, or waiting within the client's budget
    kOverBudget,  // dropped: the client does not read
    kGone,        // dropped: the client is not connected
  };

  /// Listens. kInvalidArgument for an endpoint that is none, kFailedPrecondition where it cannot be
  /// had (port in use, no permission), each with one line that says what to do.
  static absl::StatusOr<std::unique_ptr<Router>> Bind(const RouterOptions& options);
  ~Router();
  Router(const Router&) = delete;
  Router& operator=(const Router&) = delete;

  /// Where clients connect, with the port that was picked.
  const std::string& endpoint() const { return endpoint_; }

  /// Waits for a message, a client's leaving, `wake_fd` becoming readable or the timeout. Shorter
  /// where frames wait for clients that read slowly.
  void Wait(int wake_fd, std::chrono::milliseconds timeout);

  /// The next message, if there is one.
  std::optional<Incoming> Receive();

  /// Clients that left since the last call. Call it after each Receive and before its message is
  /// handled: the message's client may have the file descriptor of one that left.
  std::vector<std::string> TakeVanished();

  /// Sends in order, without blocking. `must` frames (the last word on a request) may go over the
  /// budget, up to twice of it.
  Delivery Send(const std::string& client, std::string frame, bool must = false);
  /// Tries again to send what waits.
  void Flush();
  int64_t waiting_bytes() const { return waiting_bytes_; }
  int64_t clients() const { return static_cast<int64_t>(peers_.size()); }

 private:
  struct Peer {
    int fd = -1;            // of its connection, as the socket monitor names it
    bool envelope = false;  // speaks REQ: an empty frame before each message
    std::deque<std::string> waiting;
    int64_t waiting_bytes = 0;
  };
  enum class Attempt : uint8_t { kSent, kFull, kGone };

  Router(const RouterOptions& options, std::unique_ptr<zmq::context_t> context,
         zmq::socket_t socket, zmq::socket_t monitor, std::string endpoint);
  Attempt TrySend(const std::string& client, const Peer& peer, std::string_view frame);
  void DrainMonitor();
  void Drop(const std::string& client);

  const RouterOptions options_;
  std::unique_ptr<zmq::context_t> context_;  // outlives the sockets
  zmq::socket_t socket_;
  zmq::socket_t monitor_;
  std::string endpoint_;
  std::unordered_map<std::string, Peer> peers_;
  std::unordered_map<int, std::string> client_of_fd_;
  std::vector<std::string> vanished_;
  int64_t waiting_bytes_ = 0;
};

}  // namespace tandem::frontend
