#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/base/mutex.h"
#include "kv_store/base/zmq_tools.h"
#include "parallel/communicators/progress_board.h"
#include "parallel/control/control_channel.h"

namespace tandem::parallel {

/// A follower's end over ZeroMQ.
class ZmqControlFollower final : public ControlFollower {
 public:
  struct Options {
    int rank = 0;
    std::string leader_host;
    std::string leader_key;  // Z85
    kv_store::CurveKeys keys;
    std::vector<std::string> endpoints;         // to try, best first
    std::chrono::milliseconds patience{30000};  // over all endpoints
    kv_store::SocketLimits limits;
    const ProgressBoard* board = nullptr;  // ZmqControlOptions
  };

  /// Connects to the first endpoint where the right rank 0 answers.
  static absl::StatusOr<std::unique_ptr<ZmqControlFollower>> Connect(Options options);
  ~ZmqControlFollower() override;

  absl::StatusOr<std::vector<std::byte>> Receive() override;
  absl::StatusOr<std::optional<std::vector<std::byte>>> TryReceive() override;
  absl::Status Acknowledge(uint64_t step, const Digest& digest,
                           uint64_t reduce_nanoseconds) override;
  void Report(const RecordReport& report) override;
  void Stalled(const absl::Status& why) override;
  void Fail(const absl::Status& why) override;

 private:
  explicit ZmqControlFollower(Options options);

  bool TryEndpoint(const std::string& endpoint, std::chrono::milliseconds patience);
  absl::StatusOr<std::vector<std::byte>> ReceivePlan();
  /// A plan that has come, or nothing. Leaves out other frames.
  std::optional<std::vector<std::byte>> TakePlan();
  absl::Status LeaderLost(const std::string& how) const;
  bool SendNow(std::span<const std::byte> frame) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<std::byte> Ping() const;
  void Queue(std::vector<std::byte> frame);
  void SendQueued() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RunPulse();

  const Options options_;
  kv_store::WakeUp wake_;

  Mutex mutex_;
  CondVar pulse_due_;
  std::vector<std::vector<std::byte>> queued_ ABSL_GUARDED_BY(mutex_);  // frames to be sent
  bool receiving_ ABSL_GUARDED_BY(mutex_) = false;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;

  // Used by the thread in Receive, and while there is none, with the mutex, by all.
  zmq::context_t context_;
  zmq::socket_t dealer_;
  std::unique_ptr<kv_store::DisconnectMonitor> monitor_;
  kv_store::Liveness leader_;

  // Shows rank 0 that this process lives while a step keeps the thread that calls.
  std::thread pulse_;
};

}  // namespace tandem::parallel
