#include "parallel/control/thread_control.h"

#include <deque>
#include <utility>

#include "core/base/mutex.h"

namespace tandem::parallel {
namespace {

/// What both ends share.
struct Shared {
  explicit Shared(std::vector<std::string> names) : hosts(std::move(names)), queues(hosts.size()) {}

  const std::vector<std::string> hosts;  // [ranks]
  Mutex mutex;
  CondVar changed;
  std::vector<std::deque<std::vector<std::byte>>> queues ABSL_GUARDED_BY(mutex);  // [ranks]
  bool closed ABSL_GUARDED_BY(mutex) = false;
  ControlEventGate events;
};

class ThreadLeader final : public ControlLeader {
 public:
  explicit ThreadLeader(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}
  ~ThreadLeader() override { Close(); }

  void Listen(ControlEvents events) override { shared_->events.Listen(std::move(events)); }

  absl::Status Send(std::span<const std::byte> plan) override {
    const MutexLock lock(shared_->mutex);
    if (shared_->closed) return FailedPrecondition("the control channel is closed");
    for (size_t rank = 1; rank < shared_->queues.size(); ++rank) {
      shared_->queues[rank].emplace_back(plan.begin(), plan.end());
    }
    shared_->changed.NotifyAll();
    return absl::OkStatus();
  }

  void Stalled(const absl::Status& why) override { shared_->events.Lost(why); }

  void Close() override {
    shared_->events.Close();
    const MutexLock lock(shared_->mutex);
    shared_->closed = true;
    shared_->changed.NotifyAll();
  }

 private:
  std::shared_ptr<Shared> shared_;
};

class ThreadFollower final : public ControlFollower {
 public:
  ThreadFollower(std::shared_ptr<Shared> shared, int rank)
      : shared_(std::move(shared)), rank_(rank) {}
  ~ThreadFollower() override {
    if (!failed_) shared_->events.Lost(LostRank(rank_, host(), "ended"));
  }

  absl::StatusOr<std::vector<std::byte>> Receive() override {
    const MutexLock lock(shared_->mutex);
    auto& queue = shared_->queues[static_cast<size_t>(rank_)];
    while (queue.empty() && !shared_->closed) shared_->changed.Wait(shared_->mutex);
    if (queue.empty()) return LostRank(0, shared_->hosts[0], "is gone");
    std::vector<std::byte> plan = std::move(queue.front());
    queue.pop_front();
    return plan;
  }

  absl::StatusOr<std::optional<std::vector<std::byte>>> TryReceive() override {
    const MutexLock lock(shared_->mutex);
    auto& queue = shared_->queues[static_cast<size_t>(rank_)];
    if (queue.empty()) return std::nullopt;
    std::optional<std::vector<std::byte>> plan = std::move(queue.front());
    queue.pop_front();
    return plan;
  }

  absl::Status Acknowledge(uint64_t step, const Digest& digest,
                           uint64_t reduce_nanoseconds) override {
    shared_->events.Acknowledged(
        {.rank = rank_, .step = step, .digest = digest, .reduce_nanoseconds = reduce_nanoseconds});
    return absl::OkStatus();
  }

  void Report(const RecordReport& report) override {
    RecordReport own = report;
    own.rank = rank_;
    shared_->events.Reported(own);
  }

  void Stalled(const absl::Status& why) override { shared_->events.Lost(why); }

  void Fail(const absl::Status& why) override {
    failed_ = true;
    shared_->events.Lost(FailedRank(rank_, host(), Message(why)));
  }

 private:
  const std::string& host() const { return shared_->hosts[static_cast<size_t>(rank_)]; }

  std::shared_ptr<Shared> shared_;
  int rank_;
  bool failed_ = false;
};

}  // namespace

ThreadControl MakeThreadControl(const std::vector<std::string>& hosts) {
  auto shared = std::make_shared<Shared>(hosts);
  ThreadControl control;
  control.leader = std::make_unique<ThreadLeader>(shared);
  for (size_t rank = 1; rank < hosts.size(); ++rank) {
    control.followers.push_back(std::make_unique<ThreadFollower>(shared, static_cast<int>(rank)));
  }
  return control;
}

}  // namespace tandem::parallel
