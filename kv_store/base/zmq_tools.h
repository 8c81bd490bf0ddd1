#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/mutex.h"
#include "core/base/status.h"
#include "kv_store/base/shared_bytes.h"
#include "zmq.hpp"

namespace tandem::kv_store {

/// A CURVE key pair, each key as 40 characters of Z85 (ZeroMQ RFC 32).
struct CurveKeys {
  std::string public_key;
  std::string secret_key;
};
CurveKeys MakeCurveKeys();

/// What every socket between our processes is bounded by.
struct SocketLimits {
  int64_t largest_message = int64_t{64} << 20;  // bytes; a peer that sends more is cut off
  int queued_messages = 4096;                   // in each direction
  std::chrono::milliseconds heartbeat{1000};    // peers show that they live this often
  std::chrono::milliseconds silence{5000};      // a peer that is silent for longer is gone
};

/// No lingering at close, bounded queues and messages, no reconnecting, and TCP itself finds out
/// within `silence` that the host at the other end is gone. A process that is stopped keeps its
/// connections: where that matters, both ends have a Liveness.
void SetSafeOptions(zmq::socket_t& socket, const SocketLimits& limits);

/// How long a peer has been silent, of one that pings every `heartbeat` whatever else it does.
/// Thread safety: none.
class Liveness {
 public:
  explicit Liveness(const SocketLimits& limits) : limits_(limits) {}

  /// To be called every `heartbeat` or more often; true if a ping is due to the peer. Time in which
  /// nobody called is not the peer's silence: this process was stopped itself.
  bool Tick();
  /// Something came from the peer.
  void Heard() { quiet_ = {}; }

  std::chrono::steady_clock::duration quiet() const { return quiet_; }
  bool silent() const { return quiet_ > limits_.silence; }
  /// Two pings are missing: if somebody must be to blame, it is this peer.
  bool suspect() const { return quiet_ > 2 * limits_.heartbeat; }
  /// "has sent nothing for 5.0 s; ..."
  std::string Text() const;

 private:
  const SocketLimits limits_;
  std::chrono::steady_clock::time_point ticked_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point pinged_{};
  std::chrono::steady_clock::duration quiet_{};
};

/// Makes a socket a CURVE server that asks its context's AllowList.
void BeCurveServer(zmq::socket_t& socket, const CurveKeys& keys);
/// Makes a socket a client of the server with that public key.
void BeCurveClient(zmq::socket_t& socket, const CurveKeys& keys, const std::string& server_key);

/// Answers ZeroMQ's questions who may connect (ZAP, RFC 27), for all CURVE servers of one context.
/// Whoever is not on the list is refused before any message of his is seen.
/// Thread safety: one thread polls socket() and calls Answer, all the time while peers connect;
/// Replace from any thread.
class AllowList {
 public:
  /// users: public key -> the name that messages of this peer carry (UserOf).
  AllowList(zmq::context_t& context, std::map<std::string, std::string> users);

  zmq::socket_t& socket() { return socket_; }
  /// Answers what is waiting.
  void Answer();

  /// Another list from now on. Who is no longer on it and is connected already stays so.
  void Replace(std::map<std::string, std::string> users);

 private:
  zmq::socket_t socket_;
  Mutex mutex_;
  std::map<std::string, std::string> users_ ABSL_GUARDED_BY(mutex_);
};

/// The name under which the sender of a message stands in the AllowList; empty without one.
std::string UserOf(zmq::message_t& message);

/// Tells that a peer of a socket went away. Thread safety: one thread, the socket's.
class DisconnectMonitor {
 public:
  /// What counts as going away.
  enum class Watch {
    kConnections,  // one that stood has ended
    kAttempts,     // or none came to be
  };

  DisconnectMonitor(zmq::context_t& context, zmq::socket_t& watched,
                    Watch watch = Watch::kConnections);
  ~DisconnectMonitor();
  DisconnectMonitor(const DisconnectMonitor&) = delete;
  DisconnectMonitor& operator=(const DisconnectMonitor&) = delete;

  zmq::socket_t& socket() { return socket_; }
  /// True if a peer was disconnected since the last call.
  bool TakeDisconnected();
  /// True for a second after some peer was disconnected. ZeroMQ tells that before its router drops
  /// who it was: whom a ping does not reach in that time is gone.
  bool Suspicious();

 private:
  zmq::socket_t& watched_;
  zmq::socket_t socket_;
  std::chrono::steady_clock::time_point suspicious_until_{};
};

/// A file descriptor that one thread polls beside sockets and others signal. Thread safety: all.
class WakeUp {
 public:
  WakeUp();
  ~WakeUp();
  WakeUp(const WakeUp&) = delete;
  WakeUp& operator=(const WakeUp&) = delete;

  int fd() const { return fd_; }
  void Signal() const;
  void Clear() const;

 private:
  int fd_;
};

/// What became of a message that was not to be waited for.
enum class SendOutcome { kSent, kFull, kGone };

/// Sends one frame; through a ROUTER (with ROUTER_MANDATORY) to the peer with this routing id, if
/// that is not empty.
SendOutcome TrySend(zmq::socket_t& socket, std::string_view routing_id,
                    std::span<const std::byte> frame);

/// Sends one message of these parts, each from where it lies.
SendOutcome TrySend(zmq::socket_t& socket, std::string_view routing_id,
                    std::span<const SharedBytes> parts);
/// Receives a message's parts, each where it came to lie; none if nothing has come.
std::vector<zmq::message_t> TryReceive(zmq::socket_t& socket);
std::vector<SharedBytes> TakeParts(std::vector<zmq::message_t> parts);

/// The frame's bytes.
std::span<const std::byte> BytesOf(const zmq::message_t& message);

/// Whether a poll item has something to read.
inline bool Readable(const zmq::pollitem_t& item) { return (item.revents & ZMQ_POLLIN) != 0; }

/// Waits until one of the items is ready or the time is over; false if a signal came between.
bool PollOnce(std::span<zmq::pollitem_t> items, std::chrono::milliseconds timeout);

}  // namespace tandem::kv_store
