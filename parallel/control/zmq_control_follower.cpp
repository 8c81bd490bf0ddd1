#include "parallel/control/zmq_control_follower.h"

#include <algorithm>
#include <utility>

#include "parallel/control/control_frames.h"

namespace tandem::parallel {
namespace {

using Clock = std::chrono::steady_clock;

// An address that leads nowhere is given up after this long, and the next one tried.
constexpr std::chrono::milliseconds kEndpointPatience{3000};
// The reason of a failure may take this long to leave.
constexpr int kLingerMilliseconds = 500;
constexpr size_t kLongestReason = 4096;
constexpr const char* kGone = "died or was disconnected";

/// The gateway sees the same silence of rank 0, and it can tell the clients: it goes first.
kv_store::SocketLimits LeaderLimits(kv_store::SocketLimits limits) {
  limits.silence *= 2;
  return limits;
}

ControlFailure FailureOf(const absl::Status& why) {
  return {.why = Message(why).substr(0, kLongestReason)};
}

bool IsKind(const zmq::message_t& frame, ControlFrame kind) {
  return !frame.empty() && kv_store::BytesOf(frame)[0] == static_cast<std::byte>(kind);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ZmqControlFollower>> ZmqControlFollower::Connect(Options options) {
  std::unique_ptr<ZmqControlFollower> follower(new ZmqControlFollower(std::move(options)));
  const Options& own = follower->options_;
  std::string tried;
  for (const std::string& endpoint : own.endpoints) tried += " " + endpoint;
  try {
    const auto deadline = Clock::now() + own.patience;
    while (Clock::now() < deadline) {
      for (const std::string& endpoint : own.endpoints) {
        if (follower->TryEndpoint(endpoint, std::min(kEndpointPatience, own.patience))) {
          follower->pulse_ = std::thread([self = follower.get()] { self->RunPulse(); });
          return follower;
        }
      }
    }
  } catch (const zmq::error_t& error) {
    return Unavailable("control channel: {} (tried{})", error.what(), tried);
  }
  return Unavailable(
      "control channel: rank 0 on host {} does not answer (tried{}); name the interface that "
      "reaches it with --control-interface",
      own.leader_host, tried);
}

ZmqControlFollower::ZmqControlFollower(Options options)
    : options_(std::move(options)), leader_(LeaderLimits(options_.limits)) {}

ZmqControlFollower::~ZmqControlFollower() {
  {
    const MutexLock lock(mutex_);
    closing_ = true;
    pulse_due_.NotifyAll();
  }
  if (pulse_.joinable()) pulse_.join();
  monitor_.reset();
}

bool ZmqControlFollower::TryEndpoint(const std::string& endpoint,
                                     std::chrono::milliseconds patience) {
  monitor_.reset();
  dealer_ = zmq::socket_t(context_, zmq::socket_type::dealer);
  kv_store::SetSafeOptions(dealer_, options_.limits);
  kv_store::BeCurveClient(dealer_, options_.keys, options_.leader_key);
  dealer_.set(zmq::sockopt::routing_id, RoutingIdOf(options_.rank));
  monitor_ = std::make_unique<kv_store::DisconnectMonitor>(context_, dealer_);
  dealer_.connect(endpoint);

  const auto hello = FrameOf(ControlFrame::kHello, ControlHello{.rank = options_.rank});
  if (kv_store::TrySend(dealer_, "", hello) != kv_store::SendOutcome::kSent) return false;
  zmq::pollitem_t items[] = {{dealer_.handle(), 0, ZMQ_POLLIN, 0}};
  if (zmq::poll(items, 1, patience) == 0) return false;
  zmq::message_t frame;
  return dealer_.recv(frame, zmq::recv_flags::dontwait) && IsKind(frame, ControlFrame::kWelcome);
}

absl::Status ZmqControlFollower::LeaderLost(const std::string& how) const {
  return LostRank(0, options_.leader_host, how);
}

absl::StatusOr<std::vector<std::byte>> ZmqControlFollower::Receive() {
  const auto receiving = [this](bool now) {
    const MutexLock lock(mutex_);
    receiving_ = now;
  };
  receiving(true);
  auto plan = ReceivePlan();
  receiving(false);
  return plan;
}

absl::StatusOr<std::vector<std::byte>> ZmqControlFollower::ReceivePlan() {
  try {
    bool gone = false;
    for (;;) {
      {
        const MutexLock lock(mutex_);
        SendQueued();
        if (leader_.Tick()) SendNow(Ping());
      }
      // What rank 0 sent before it went comes first.
      if (auto plan = TakePlan()) return *std::move(plan);
      if (gone) return LeaderLost(kGone);
      if (leader_.silent()) return LeaderLost(leader_.Text());
      zmq::pollitem_t items[] = {{dealer_.handle(), 0, ZMQ_POLLIN, 0},
                                 {monitor_->socket().handle(), 0, ZMQ_POLLIN, 0},
                                 {nullptr, wake_.fd(), ZMQ_POLLIN, 0}};
      zmq::poll(items, std::size(items), options_.limits.heartbeat);
      if (kv_store::Readable(items[2])) wake_.Clear();
      if (kv_store::Readable(items[1])) gone = monitor_->TakeDisconnected();
    }
  } catch (const zmq::error_t& error) {
    return Internal("control channel: {}", error.what());
  }
}

std::optional<std::vector<std::byte>> ZmqControlFollower::TakePlan() {
  zmq::message_t frame;
  while (dealer_.recv(frame, zmq::recv_flags::dontwait)) {
    leader_.Heard();
    if (!IsKind(frame, ControlFrame::kPlan)) continue;
    const auto plan = kv_store::BytesOf(frame).subspan(1);
    return std::vector<std::byte>(plan.begin(), plan.end());
  }
  return std::nullopt;
}

absl::StatusOr<std::optional<std::vector<std::byte>>> ZmqControlFollower::TryReceive() {
  try {
    // The pulse uses the socket meanwhile.
    const MutexLock lock(mutex_);
    return TakePlan();
  } catch (const zmq::error_t& error) {
    return Internal("control channel: {}", error.what());
  }
}

void ZmqControlFollower::Report(const RecordReport& report) {
  std::vector<std::byte> frame = FrameOf(ControlFrame::kReport);
  const std::vector<std::byte> encoded = EncodeRecordReport(report);
  frame.insert(frame.end(), encoded.begin(), encoded.end());
  Queue(std::move(frame));
}

std::vector<std::byte> ZmqControlFollower::Ping() const {
  return FrameOf(ControlFrame::kPing, ProgressOf(options_.board, options_.rank));
}

void ZmqControlFollower::Stalled(const absl::Status& why) {
  Queue(Ping());
  Queue(FrameOf(ControlFrame::kStalled, FailureOf(why)));
  pulse_due_.NotifyAll();
}

void ZmqControlFollower::Queue(std::vector<std::byte> frame) {
  {
    const MutexLock lock(mutex_);
    queued_.push_back(std::move(frame));
  }
  wake_.Signal();
}

void ZmqControlFollower::SendQueued() {
  // One that does not leave is one that comes too late: rank 0 does not wait for ever.
  for (const auto& frame : std::exchange(queued_, {})) SendNow(frame);
}

bool ZmqControlFollower::SendNow(std::span<const std::byte> frame) {
  return kv_store::TrySend(dealer_, "", frame) == kv_store::SendOutcome::kSent;
}

void ZmqControlFollower::RunPulse() {
  const MutexLock lock(mutex_);
  while (!closing_) {
    pulse_due_.WaitFor(mutex_, options_.limits.heartbeat);
    if (closing_ || receiving_) continue;
    try {
      SendQueued();
      SendNow(Ping());
    } catch (const zmq::error_t&) {
      // The thread that calls sees it, too.
    }
  }
}

absl::Status ZmqControlFollower::Acknowledge(uint64_t step, const Digest& digest,
                                             uint64_t reduce_nanoseconds) {
  const auto frame = FrameOf(
      ControlFrame::kAck,
      Acknowledgement{.step = step, .digest = digest, .reduce_nanoseconds = reduce_nanoseconds});
  try {
    const MutexLock lock(mutex_);
    SendQueued();
    if (SendNow(frame)) return absl::OkStatus();
  } catch (const zmq::error_t& error) {
    return Internal("control channel: {}", error.what());
  }
  return LeaderLost(kGone);
}

void ZmqControlFollower::Fail(const absl::Status& why) {
  try {
    const MutexLock lock(mutex_);
    dealer_.set(zmq::sockopt::linger, kLingerMilliseconds);
    if (SendNow(FrameOf(ControlFrame::kFailed, FailureOf(why)))) {
      std::this_thread::sleep_for(kFailureStay);
    }
  } catch (const zmq::error_t&) {
    // Rank 0 learns from the broken connection.
  }
}

}  // namespace tandem::parallel
