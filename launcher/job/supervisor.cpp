#include "launcher/job/supervisor.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "core/base/counted.h"

namespace tandem::launcher {
namespace {

constexpr auto kStepLook = std::chrono::seconds(1);
/// A step has many collectives, and ranks that hang in one are named by those that wait for them.
constexpr int kCollectivesOfStep = 10;

/// The ranks that are left know by then which one died.
constexpr std::chrono::milliseconds kReasonWait{150};

parallel::RecoveringEngine::Options EngineOptions(const ModelOptions& model) {
  parallel::RecoveringEngine::Options options;
  options.most_open =
      static_cast<size_t>(model.max_running) + static_cast<size_t>(model.max_waiting);
  return options;
}

}  // namespace

Supervisor::Supervisor(const RankLifeOrder& order)
    : order_(order),
      engine_(EngineOptions(order.model)),
      policy_(order.launch.max_restarts),
      steps_(std::chrono::duration_cast<Clock::duration>(
          kCollectivesOfStep * std::chrono::duration<double>(order.model.collective_timeout))) {
  order_.reason_wait = kReasonWait;
  order_.on_gone = [this] {
    const MutexLock lock(mutex_);
    gone_ = true;
    changed_.NotifyAll();
  };
}

absl::StatusOr<std::unique_ptr<Supervisor>> Supervisor::Start(const RankLifeOrder& order) {
  std::unique_ptr<Supervisor> supervisor(new Supervisor(order));
  TANDEM_RETURN_IF_ERROR(supervisor->StartLife());
  supervisor->order_.keep_waiting = [self = supervisor.get()]() -> absl::Status {
    const MutexLock lock(self->mutex_);
    return self->stopping_ ? absl::CancelledError("the server ends") : absl::OkStatus();
  };
  supervisor->thread_ = std::thread([self = supervisor.get()] { self->Watch(); });
  return supervisor;
}

Supervisor::~Supervisor() { static_cast<void>(End(absl::OkStatus())); }

absl::Status Supervisor::End(absl::Status status) {
  {
    const MutexLock lock(mutex_);
    if (!stopping_) status_ = std::move(status);
    stopping_ = true;
    changed_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
  const MutexLock lock(mutex_);
  return status_;
}

absl::Status Supervisor::StartLife() {
  {
    const MutexLock lock(mutex_);
    gone_ = false;
  }
  TANDEM_ASSIGN_OR_RETURN(life_, RankLife::Start(order_));
  began_ = Clock::now();
  steps_.Begin();
  engine_.Begin(life_->engine(), order_.epoch);
  return absl::OkStatus();
}

void Supervisor::Watch() {
  for (;;) {
    const absl::Status stuck = AwaitEnd();
    {
      const MutexLock lock(mutex_);
      if (stopping_) break;
    }
    Recover(stuck);
    if (life_ == nullptr) break;
  }
  absl::Status status;
  {
    const MutexLock lock(mutex_);
    while (!stopping_) changed_.Wait(mutex_);
    status = status_;
  }
  // The ranks end with the thread that started them, which must not end before.
  if (life_ != nullptr) status = life_->End(std::move(status));
  life_.reset();
  const MutexLock lock(mutex_);
  status_ = std::move(status);
}

absl::Status Supervisor::AwaitEnd() {
  for (;;) {
    {
      const MutexLock lock(mutex_);
      const auto until = Clock::now() + kStepLook;
      while (!gone_ && !stopping_ && changed_.WaitUntil(mutex_, until)) {
      }
      if (gone_ || stopping_) return absl::OkStatus();
    }
    const absl::StatusOr<parallel::EngineStatus> status = life_->engine()->Status();
    if (!status.ok() || !steps_.Stuck(*status, Clock::now())) continue;
    return Unavailable("the ranks answer, but no step has ended for {:.0f} s",
                       std::chrono::duration<double>(steps_.patience()).count());
  }
}

void Supervisor::Recover(const absl::Status& stuck) {
  const Clock::time_point lost_at = Clock::now();
  absl::Status why = stuck.ok() ? life_->Reason() : stuck;
  const Clock::duration lived = lost_at - began_;
  engine_.Lose(why);
  life_->Kill();
  life_.reset();
  std::optional<Clock::duration> wait = policy_.Next(Clock::now(), lived);
  while (wait) {
    ++order_.epoch;
    spdlog::error("{}; starting the ranks again, as epoch {}{}", Message(why), order_.epoch,
                  wait->count() == 0
                      ? ""
                      : fmt::format(", in {:.2g} s", std::chrono::duration<double>(*wait).count()));
    if (!SleepUnlessStopping(*wait)) return;
    const absl::Status started = StartLife();
    if (started.ok()) {
      const std::chrono::duration<double> seconds = Clock::now() - lost_at;
      spdlog::info("the ranks are there again after {:.2f} s, as epoch {}", seconds.count(),
                   order_.epoch);
      return;
    }
    if (absl::IsCancelled(started)) return;
    why = started;
    engine_.Explain(why);
    wait = policy_.Next(Clock::now(), Clock::duration(0));
  }
  why = Unavailable(
      "{}; the ranks are not started again: {} within an hour is what --max-restarts "
      "allows",
      Message(why), Counted(order_.launch.max_restarts, "restart"));
  spdlog::error("{}", Message(why));
  engine_.GiveUp(why);
}

bool Supervisor::SleepUnlessStopping(Clock::duration time) {
  const auto until = Clock::now() + time;
  const MutexLock lock(mutex_);
  while (!stopping_ && changed_.WaitUntil(mutex_, until)) {
  }
  return !stopping_;
}

}  // namespace tandem::launcher
