#pragma once

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "core/base/mutex.h"
#include "kv_store/base/zmq_tools.h"
#include "parallel/communicators/progress_board.h"
#include "parallel/control/control_channel.h"

namespace tandem::parallel {

/// Rank 0's end over ZeroMQ: a thread owns the socket, sends plans, and receives acknowledgements
/// and news of the dead.
class ZmqControlLeader final : public ControlLeader {
 public:
  struct Options {
    std::vector<std::string> hosts;        // [ranks], as messages name them
    std::vector<std::string> public_keys;  // [ranks] Z85; nobody else may connect
    kv_store::CurveKeys keys;              // rank 0's
    std::vector<std::string> endpoints;    // to bind; tcp ports may be "*"
    kv_store::SocketLimits limits;
    ProgressBoard* board = nullptr;  // ZmqControlOptions
  };

  /// Binds and starts the thread. kUnavailable if an endpoint cannot be bound.
  static absl::StatusOr<std::unique_ptr<ZmqControlLeader>> Create(Options options);
  ~ZmqControlLeader() override;

  /// The endpoints as bound, with port numbers.
  const std::vector<std::string>& endpoints() const { return endpoints_; }
  /// Waits until every follower has said hello. kUnavailable, naming those that have not.
  absl::Status WaitForFollowers(std::chrono::milliseconds patience);

  void Listen(ControlEvents events) override { events_.Listen(std::move(events)); }
  absl::Status Send(std::span<const std::byte> plan) override;
  void Stalled(const absl::Status& why) override;
  void Close() override;

 private:
  explicit ZmqControlLeader(Options options);

  void Run();
  void PollOnce(bool closing);
  /// Gives the followers time to hang up first.
  void AwaitHangUp();
  void SendQueued();
  void Receive();
  void HandleFrame(int rank, std::span<const std::byte> frame);
  void SendTo(int rank, std::span<const std::byte> frame);
  /// Pings those that are due, or all; finds who is gone or silent.
  void LookAfterFollowers(bool ping_all);
  /// Says who is to blame for a stalled collective, once that is known.
  void JudgeStall();
  /// Passes on that a follower gave up, unless another one is found to be gone first.
  void JudgeFailure();
  void Lost(int rank, const std::string& how);
  void EndWith(const absl::Status& why);

  const Options options_;
  ControlEventGate events_;
  kv_store::WakeUp wake_;

  // Used by the thread alone, once it runs.
  zmq::context_t context_;
  kv_store::AllowList allowed_;
  zmq::socket_t router_;
  std::unique_ptr<kv_store::DisconnectMonitor> monitor_;
  std::vector<std::string> endpoints_;
  std::map<int, kv_store::Liveness> followers_;  // that have said hello
  std::set<int> lost_;
  absl::Status failed_;  // of the first follower that gave up, until somebody was blamed
  std::chrono::steady_clock::time_point failed_since_;

  Mutex mutex_;
  CondVar changed_;
  std::deque<std::vector<std::byte>> outgoing_ ABSL_GUARDED_BY(mutex_);  // frames
  std::set<int> connected_ ABSL_GUARDED_BY(mutex_);
  absl::Status health_ ABSL_GUARDED_BY(mutex_);   // of the channel itself
  absl::Status stalled_ ABSL_GUARDED_BY(mutex_);  // until somebody was blamed
  std::chrono::steady_clock::time_point stalled_since_ ABSL_GUARDED_BY(mutex_);
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;

  std::thread thread_;
};

}  // namespace tandem::parallel
