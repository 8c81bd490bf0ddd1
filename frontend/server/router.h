#pragma once

#include <poll.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/base/status.h"
#include "frontend/server/listener.h"
#include "frontend/server/zmtp.h"
#include "frontend/service/answer_events.h"
#include "parallel/engine/fair_share.h"

namespace tandem::frontend {

struct RouterOptions {
  std::string endpoint = "tcp://127.0.0.1:5555";  // as Listen takes it
  std::shared_ptr<Listener> listener = nullptr;   // it is used up instead, where there is one
  int64_t frame_bytes = int64_t{1} << 20;         // the largest frame that is read
  int64_t clients = 256;                          // connections at once
  /// Clients beyond the limit that are told so; others are closed without a word.
  int64_t surplus_clients = kSurplusClients;
  static constexpr int64_t kSurplusClients = 32;
  /// Bytes that may wait for one client, beyond what the kernel holds.
  int64_t client_budget_bytes = int64_t{4} << 20;
  int64_t total_budget_bytes = int64_t{128} << 20;  // for all clients together
  /// A client for which more waits is not listened to, until it has read.
  int64_t pause_bytes = int64_t{1} << 20;
};

/// What a ROUTER socket is to DEALER and REQ clients, for a port that anybody may come to: no
/// client can end it, make it block, or cost it more than a promised number of bytes.
///
/// Why not libzmq's own: its engine asserts that it never writes on a connection that has failed
/// (stream_engine_base.cpp, `!_io_error`). A mark (ZMQ_RCVHWM) stops input; the client leaves; then
/// the heartbeat's timer writes, and the process aborts. Without heartbeats of our own the same
/// happens through a PING of the client's among the bytes that were read before, which no option
/// turns away. (Issues 3937 and 3596 of libzmq are kin.) A socket without a mark has no bound on
/// its memory, and marks count messages, whatever their bytes. So the bytes are counted here, and
/// whoever does not read is not listened to, which TCP tells the sender. Dead hosts show by TCP
/// keep-alive, dead programs by the protocol's `ping`.
///
/// A client holds: one frame within the limit and 64 KiB of what it sent; of answers the budget
/// (twice for last words), or one frame where none waits.
///
/// Thread safety: one thread, the one that called Bind.
class Router {
 public:
  using Clock = std::chrono::steady_clock;

  struct Incoming {
    std::string client;  // connection identity
    std::string frame;
    bool single = true;      // false: the message had several frames (`frame` is the last)
    uint64_t oversized = 0;  // set: bytes of a frame beyond the limit; `frame` is its beginning
  };
  /// Listens. `surplus`: the message for clients beyond the limit. Errors: Listen.
  static absl::StatusOr<std::unique_ptr<Router>> Bind(const RouterOptions& options,
                                                      std::string surplus);
  ~Router();
  Router(const Router&) = delete;
  Router& operator=(const Router&) = delete;

  /// Where clients connect, with the port that was picked.
  const std::string& endpoint() const { return listener_.endpoint; }

  /// Waits for bytes, a client's coming or leaving, `wake_fd` becoming readable or the timeout.
  void Wait(int wake_fd, std::chrono::milliseconds timeout);

  /// The next message, if there is one. Clients share by what their messages cost, so a small one
  /// passes the large ones of others. From `until` on no more of them are looked at, since bytes
  /// that are no message, such as pings, take time, too.
  std::optional<Incoming> Receive(Clock::time_point until = Clock::time_point::max());

  /// Whether a client may come back under this name: not under one that was made up for it.
  static bool ComesBack(const std::string& client) { return !client.empty() && client[0] != '\0'; }

  /// Clients that left since the last call, or that Send found gone.
  std::vector<std::string> TakeVanished();

  /// Sends in order, without blocking. `must` frames (the last word on a request) may go over the
  /// budget, up to twice of it.
  Delivery Send(const std::string& client, std::string_view frame, bool must = false);
  /// Sends what waits, as far as clients read.
  void Flush();
  int64_t waiting_bytes() const { return waiting_bytes_; }
  /// Bytes that wait for one client; of one that is not connected, none.
  int64_t WaitingFor(const std::string& client) const;
  int64_t clients() const { return static_cast<int64_t>(by_name_.size()); }

 private:
  struct Connection {
    Connection(Socket its_socket, uint64_t frame_bytes)
        : socket(std::move(its_socket)), reader(frame_bytes) {}

    Socket socket;
    ZmtpReader reader;
    std::string name;  // once it is ready
    bool surplus = false;
    bool envelope = false;  // speaks REQ: an empty frame before each message
    bool readable = true;   // the kernel may have bytes
    bool unread = false;    // the reader may have a message
    bool takes_turns = false;
    bool writable = true;
    std::deque<std::string> waiting;
    size_t sent = 0;  // bytes of the first of them
    int64_t waiting_bytes = 0;
    std::optional<Clock::time_point> ends_at;  // not ready by then, or surplus: closed
  };
  using Connections = std::map<uint64_t, std::unique_ptr<Connection>>;  // by order of coming

  Router(const RouterOptions& options, Listener listener, std::string surplus);

  void AcceptWaiting();
  bool Paused(const Connection& connection) const {
    return connection.waiting_bytes > options_.pause_bytes;
  }
  /// Whose turn it is; the end if nobody's.
  Connections::iterator Next();
  /// Looks at one connection until it gives a message or was read once. False: it is at its end.
  bool Step(uint64_t number, Connection& connection, std::optional<Incoming>& message);
  /// Reads once from the kernel; false if the client is gone.
  bool Read(uint64_t number, Connection& connection);
  void BecomeReady(uint64_t number, Connection& connection, std::string identity);
  void Queue(Connection& connection, std::string bytes);
  /// Writes what waits, as far as the kernel takes it; false if the client is gone.
  bool Write(Connection& connection);
  /// Closes it; a ready one has vanished.
  Connections::iterator Close(Connections::iterator at);
  void CloseOverdue();

  const RouterOptions options_;
  const Listener listener_;
  const std::string surplus_;
  Connections connections_;
  std::unordered_map<std::string, uint64_t> by_name_;
  uint64_t next_number_ = 1;
  parallel::FairShare turns_;  // by number, in bytes, of those that have something to be read
  int64_t surplus_connections_ = 0;
  int64_t waiting_bytes_ = 0;
  std::vector<std::string> vanished_;
  std::optional<Clock::time_point> accept_again_at_;  // set: no descriptors are left
  bool told_of_descriptors_ = false;
  std::vector<pollfd> polled_;    // of one Wait; the connections' come last
  std::vector<char> read_bytes_;  // of one Read
};

}  // namespace tandem::frontend
