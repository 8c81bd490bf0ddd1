#include "parallel/control/zmq_control_leader.h"

#include <algorithm>
#include <utility>

#include "parallel/communicators/watchdog.h"
#include "parallel/control/control_frames.h"

namespace tandem::parallel {
namespace {

using Clock = std::chrono::steady_clock;

// While somebody is gone and is to be found.
constexpr std::chrono::milliseconds kPingInterval{10};
// A follower that gives up may do so because another one is gone, which is found within this time.
constexpr std::chrono::milliseconds kFailureWait{200};
static_assert(kFailureWait < kFailureStay);
// When the channel is closed, followers have this long to read the last plan and hang up.
constexpr std::chrono::milliseconds kLinger{1000};

std::map<std::string, std::string> Users(const std::vector<std::string>& public_keys) {
  std::map<std::string, std::string> users;
  for (size_t rank = 1; rank < public_keys.size(); ++rank) {
    users[public_keys[rank]] = RoutingIdOf(static_cast<int>(rank));
  }
  return users;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ZmqControlLeader>> ZmqControlLeader::Create(Options options) {
  try {
    std::unique_ptr<ZmqControlLeader> leader(new ZmqControlLeader(std::move(options)));
    for (const std::string& endpoint : leader->options_.endpoints) {
      try {
        leader->router_.bind(endpoint);
      } catch (const zmq::error_t& error) {
        return Unavailable("control channel: rank 0 cannot listen at {}: {}", endpoint,
                           error.what());
      }
      leader->endpoints_.push_back(leader->router_.get(zmq::sockopt::last_endpoint));
    }
    leader->thread_ = std::thread([self = leader.get()] { self->Run(); });
    return leader;
  } catch (const std::exception& error) {
    return Unavailable("control channel: rank 0 cannot open its socket: {}", error.what());
  }
}

ZmqControlLeader::ZmqControlLeader(Options options)
    : options_(std::move(options)),
      allowed_(context_, Users(options_.public_keys)),
      router_(context_, zmq::socket_type::router) {
  kv_store::SetSafeOptions(router_, options_.limits);
  kv_store::BeCurveServer(router_, options_.keys);
  router_.set(zmq::sockopt::router_mandatory, true);
  monitor_ = std::make_unique<kv_store::DisconnectMonitor>(context_, router_);
}

ZmqControlLeader::~ZmqControlLeader() { Close(); }

absl::Status ZmqControlLeader::WaitForFollowers(std::chrono::milliseconds patience) {
  const MutexLock lock(mutex_);
  const size_t followers = options_.hosts.size() - 1;
  const auto deadline = Clock::now() + patience;
  while (connected_.size() != followers && health_.ok() && changed_.WaitUntil(mutex_, deadline)) {
  }
  if (!health_.ok()) return health_;
  std::string missing;
  for (size_t rank = 1; rank <= followers; ++rank) {
    if (connected_.contains(static_cast<int>(rank))) continue;
    missing += fmt::format("{}rank {} on host {}", missing.empty() ? "" : ", ", rank,
                           options_.hosts[rank]);
  }
  if (missing.empty()) return absl::OkStatus();
  return Unavailable("control channel: {} did not connect to rank 0 on host {} within {} ms",
                     missing, options_.hosts[0], patience.count());
}

absl::Status ZmqControlLeader::Send(std::span<const std::byte> plan) {
  std::vector<std::byte> frame = FrameOf(ControlFrame::kPlan);
  frame.insert(frame.end(), plan.begin(), plan.end());
  {
    const MutexLock lock(mutex_);
    if (!health_.ok()) return health_;
    if (closing_) return FailedPrecondition("the control channel is closed");
    outgoing_.push_back(std::move(frame));
  }
  wake_.Signal();
  return absl::OkStatus();
}

void ZmqControlLeader::Stalled(const absl::Status& why) {
  {
    const MutexLock lock(mutex_);
    if (!stalled_.ok()) return;
    stalled_ = why;
    stalled_since_ = Clock::now();
  }
  wake_.Signal();
}

void ZmqControlLeader::Close() {
  events_.Close();
  {
    const MutexLock lock(mutex_);
    closing_ = true;
  }
  wake_.Signal();
  if (thread_.joinable()) thread_.join();
}

void ZmqControlLeader::Run() {
  try {
    for (;;) {
      PollOnce(false);
      const MutexLock lock(mutex_);
      if (closing_ && outgoing_.empty()) break;
    }
    AwaitHangUp();
    monitor_.reset();
    router_.set(zmq::sockopt::linger, static_cast<int>(kLinger.count()));
    router_.close();
    allowed_.socket().close();
    context_.close();  // waits for what lingers; without it connections stay open
  } catch (const std::exception& error) {
    EndWith(Internal("control channel: {}", error.what()));
  }
}

void ZmqControlLeader::AwaitHangUp() {
  // A broken connection takes along what the other side has not read yet, the plan that ends it
  // too.
  const auto deadline = Clock::now() + kLinger;
  const auto all_left = [this] {
    const MutexLock lock(mutex_);
    return std::includes(lost_.begin(), lost_.end(), connected_.begin(), connected_.end());
  };
  while (Clock::now() < deadline && !all_left()) PollOnce(true);
}

void ZmqControlLeader::PollOnce(bool closing) {
  zmq::pollitem_t items[] = {{nullptr, wake_.fd(), ZMQ_POLLIN, 0},
                             {router_.handle(), 0, ZMQ_POLLIN, 0},
                             {allowed_.socket().handle(), 0, ZMQ_POLLIN, 0},
                             {monitor_->socket().handle(), 0, ZMQ_POLLIN, 0}};
  const bool ping_all = monitor_->Suspicious() || closing || !failed_.ok();
  zmq::poll(items, std::size(items), ping_all ? kPingInterval : options_.limits.heartbeat);
  if (kv_store::Readable(items[0])) wake_.Clear();
  SendQueued();
  if (kv_store::Readable(items[2])) allowed_.Answer();
  if (kv_store::Readable(items[1])) Receive();
  LookAfterFollowers(ping_all);
  JudgeFailure();
  JudgeStall();
}

void ZmqControlLeader::SendQueued() {
  std::deque<std::vector<std::byte>> frames;
  {
    const MutexLock lock(mutex_);
    frames.swap(outgoing_);
  }
  for (const auto& frame : frames) {
    for (size_t rank = 1; rank < options_.hosts.size(); ++rank) {
      SendTo(static_cast<int>(rank), frame);
    }
  }
}

void ZmqControlLeader::SendTo(int rank, std::span<const std::byte> frame) {
  if (lost_.contains(rank)) return;
  switch (kv_store::TrySend(router_, RoutingIdOf(rank), frame)) {
    case kv_store::SendOutcome::kSent:
      return;
    case kv_store::SendOutcome::kFull:
      return Lost(rank, fmt::format("has not read its last {} plans; it hangs",
                                    options_.limits.queued_messages));
    case kv_store::SendOutcome::kGone:
      return Lost(rank, "died or was disconnected");
  }
}

void ZmqControlLeader::LookAfterFollowers(bool ping_all) {
  for (auto& [rank, liveness] : followers_) {
    if (liveness.Tick() || ping_all) SendTo(rank, FrameOf(ControlFrame::kPing));
    if (liveness.silent()) Lost(rank, liveness.Text());
  }
}

void ZmqControlLeader::JudgeStall() {
  absl::Status why;
  {
    const MutexLock lock(mutex_);
    if (stalled_.ok()) return;
    // Time in which a rank that is stopped misses pings, and each other one sends some.
    if (Clock::now() - stalled_since_ < 4 * options_.limits.heartbeat) return;
    why = stalled_;
    // Whoever waits for a rank that is stopped knows less of it than whoever misses its pings. On
    // an overloaded host one or two of them may be late.
    const auto suspect = std::find_if(
        followers_.begin(), followers_.end(),
        [this](const auto& one) { return one.second.quiet() > 3 * options_.limits.heartbeat; });
    if (suspect != followers_.end()) {
      const auto& [rank, liveness] = *suspect;
      why = LostRank(rank, options_.hosts[static_cast<size_t>(rank)], liveness.Text());
    } else if (options_.board != nullptr) {
      // Each rank has said where it is. Who told of the stall knew of itself alone.
      const auto stalled = FindFurthestWait(*options_.board, Clock::now());
      if (stalled.has_value()) why = Unavailable("{}", stalled->text);
    }
    stalled_ = absl::OkStatus();
  }
  events_.Lost(why);
}

void ZmqControlLeader::JudgeFailure() {
  if (failed_.ok() || Clock::now() - failed_since_ < kFailureWait) return;
  events_.Lost(std::exchange(failed_, absl::OkStatus()));
}

void ZmqControlLeader::Lost(int rank, const std::string& how) {
  if (!lost_.insert(rank).second) return;
  failed_ = absl::OkStatus();  // of a rank that missed this one
  events_.Lost(LostRank(rank, options_.hosts[static_cast<size_t>(rank)], how));
}

void ZmqControlLeader::Receive() {
  for (;;) {
    std::vector<zmq::message_t> parts = kv_store::TryReceive(router_);  // routing id, frame
    if (parts.empty()) return;
    if (parts.size() != 2) continue;  // none of ours
    // The key, not what the peer calls itself, says which rank it is.
    const std::string user = kv_store::UserOf(parts[1]);
    for (size_t rank = 1; rank < options_.hosts.size(); ++rank) {
      if (user == RoutingIdOf(static_cast<int>(rank)) && parts[0].to_string_view() == user) {
        HandleFrame(static_cast<int>(rank), kv_store::BytesOf(parts[1]));
      }
    }
  }
}

void ZmqControlLeader::HandleFrame(int rank, std::span<const std::byte> frame) {
  if (const auto known = followers_.find(rank); known != followers_.end()) known->second.Heard();
  core::WireReader reader("control frame", frame);
  uint8_t kind = 0;
  reader(kind);
  switch (static_cast<ControlFrame>(kind)) {
    case ControlFrame::kHello: {
      ControlHello hello;
      reader(hello);
      if (!reader.Finish().ok() || hello.version != kControlVersion || hello.rank != rank) {
        return Lost(rank, fmt::format("speaks control version {}, expected {}", hello.version,
                                      kControlVersion));
      }
      SendTo(rank, FrameOf(ControlFrame::kWelcome));
      followers_.try_emplace(rank, options_.limits);
      const MutexLock lock(mutex_);
      connected_.insert(rank);
      changed_.NotifyAll();
      return;
    }
    case ControlFrame::kAck: {
      Acknowledgement acknowledgement{.rank = rank};
      reader(acknowledgement);
      if (reader.Finish().ok()) return events_.Acknowledged(acknowledgement);
      break;
    }
    case ControlFrame::kReport: {
      absl::StatusOr<RecordReport> report = DecodeRecordReport(frame.subspan(1));
      if (!report.ok()) break;
      report->rank = rank;
      return events_.Reported(*report);
    }
    case ControlFrame::kPing: {
      std::optional<ControlProgress> progress;
      reader(progress);
      if (!reader.Finish().ok()) break;
      if (progress.has_value() && options_.board != nullptr) {
        options_.board->Put(rank, HeardProgress(*progress));
      }
      return;
    }
    case ControlFrame::kStalled: {
      ControlFailure failure;
      reader(failure);
      if (reader.Finish().ok()) return Stalled(Unavailable("{}", failure.why));
      break;
    }
    case ControlFrame::kFailed: {
      ControlFailure failure;
      reader(failure);
      if (reader.Finish().ok()) {
        if (!lost_.insert(rank).second || !failed_.ok()) return;
        failed_ = FailedRank(rank, options_.hosts[static_cast<size_t>(rank)], failure.why);
        failed_since_ = Clock::now();
        return;
      }
      break;
    }
    default:
      break;
  }
  Lost(rank, "sent a frame that is none of the control channel's");
}

void ZmqControlLeader::EndWith(const absl::Status& why) {
  {
    const MutexLock lock(mutex_);
    if (health_.ok()) health_ = why;
    changed_.NotifyAll();
  }
  events_.Lost(why);
}

}  // namespace tandem::parallel
