#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "kv_store/base/zmq_tools.h"
#include "parallel/communicators/communicator.h"
#include "parallel/control/control_channel.h"

namespace tandem::parallel {

struct ZmqControlOptions {
  /// Where rank 0 listens: an interface name ("eth0"), an address, or empty: an address that all
  /// hosts share a network with. Ranks that are all on one host use an abstract Unix socket.
  std::string interface;
  /// How long rank 0 waits for all followers to connect.
  std::chrono::milliseconds patience{30000};
  kv_store::SocketLimits limits;
  /// Where each rank's host is named in messages, with its device; empty: the host's name. [ranks]
  std::vector<std::string> places;
  /// Where each rank puts its own progress, and rank 0 that of the others; may be null, and must
  /// outlive the channel.
  ProgressBoard* board = nullptr;
};

/// One end of a control channel: on rank 0 `leader` is set, elsewhere `follower`.
struct ControlEnd {
  std::unique_ptr<ControlLeader> leader;
  std::unique_ptr<ControlFollower> follower;
};

/// Connects rank 0 with every follower over ZeroMQ, encrypted and authenticated.
///
/// Every rank makes a CURVE key pair for this run alone. The public keys and rank 0's address go
/// through `world`, and rank 0 lets nobody else in. Called by all ranks together; an error of one
/// is an error of all. kUnavailable if a follower does not reach rank 0, naming both and the
/// addresses tried.
absl::StatusOr<ControlEnd> ConnectZmqControl(const ZmqControlOptions& options, Communicator& world);

}  // namespace tandem::parallel
