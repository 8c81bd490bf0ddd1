#include "launcher/supervision/supervisor.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "core/base/counted.h"
#include "launcher/option_tables/rank_command.h"

namespace tandem::launcher {
namespace {

constexpr auto kStepLook = std::chrono::seconds(1);
/// A step has many collectives, and ranks that hang in one are named by those that wait for them.
constexpr int kCollectivesOfStep = 10;

// New ranks hold half of the KV that the old ones do, at least. (A quarter of what is free is less
// while the old ones have theirs.)
constexpr int64_t kLeastRoomDivisor = 2;

// A start that ends because hosts are lost says nothing against the next one, nor does the death of
// ranks that answered.
constexpr auto kFullLife = std::chrono::seconds(3600);

/// The ranks that are left know by then which one died.
constexpr std::chrono::milliseconds kReasonWait{150};

/// Whether the KV cache of the new ranks, where it is chosen by the memory that is free while both
/// are there, is no much smaller one.
absl::Status CheckFreeMemory(int64_t had, int64_t has) {
  if (has * kLeastRoomDivisor >= had) return absl::OkStatus();
  return ResourceExhausted(
      "the new ranks would hold {} of KV, the old ones hold {}: free memory is short while both "
      "are there; give --kv-memory, or start the server anew with -n",
      Counted(has, "block"), Counted(had, "block"));
}

/// What ranks die of may have as many of the restarts that an hour has; half of them, and ten.
int MostFutileLives(int max_restarts) { return std::max(10, max_restarts / 2); }

}  // namespace

Supervisor::Supervisor(const RankLifeOrder& order)
    : elastic_(order.launch.elastic),
      order_(order),
      engine_({.most_open = static_cast<size_t>(order.model.max_running) +
                            static_cast<size_t>(order.model.max_waiting),
               .most_futile_lives = MostFutileLives(order.launch.max_restarts),
               .scale = [this](int ranks, const auto& done) { TakeScale(ranks, done); }}),
      policy_(order.launch.max_restarts),
      steps_(std::chrono::duration_cast<Clock::duration>(
          kCollectivesOfStep * std::chrono::duration<double>(order.model.collective_timeout))) {
  order_.epoch = 0;
  order_.reason_wait = kReasonWait;
}

absl::StatusOr<std::unique_ptr<Supervisor>> Supervisor::Start(const RankLifeOrder& order) {
  std::unique_ptr<Supervisor> supervisor(new Supervisor(order));
  TANDEM_ASSIGN_OR_RETURN(supervisor->hosts_, SpareHosts::Make(order.launch));
  TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<RankLife> life, supervisor->StartLife(order.launch));
  supervisor->Enter(std::move(life));
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

absl::StatusOr<std::unique_ptr<RankLife>> Supervisor::StartLife(const LaunchOptions& launch) {
  RankLifeOrder order = order_;
  order.launch = launch;
  order.epoch = ++order_.epoch;
  order.on_gone = [this, epoch = order.epoch] {
    const MutexLock lock(mutex_);
    gone_.insert(epoch);
    changed_.NotifyAll();
  };
  if (hosts_ != nullptr) {
    order.on_unreached = [this](const std::string& host) { hosts_->Unreached(host); };
  }
  return RankLife::Start(order);
}

void Supervisor::Enter(std::unique_ptr<RankLife> life) {
  {
    const MutexLock lock(mutex_);
    life_epoch_ = order_.epoch;
  }
  life_ = std::move(life);
  began_ = Clock::now();
  steps_.Begin();
  engine_.Begin(life_->engine(), order_.epoch);
}

void Supervisor::Watch() {
  while (life_ != nullptr) {
    const absl::Status stuck = AwaitNews();
    bool scales = false;
    bool gone = false;
    {
      const MutexLock lock(mutex_);
      if (stopping_) break;
      gone = Gone();
      scales = scale_.has_value();
    }
    if (gone || !stuck.ok()) {
      Recover(stuck);
    } else if (scales) {
      Scale();
    } else {
      MoveToHosts();
    }
  }
  absl::Status status;
  {
    const MutexLock lock(mutex_);
    while (!stopping_) changed_.Wait(mutex_);
    status = status_;
  }
  JoinEnding();
  // The ranks end with the thread that started them, which must not end before.
  if (life_ != nullptr) status = life_->End(std::move(status));
  life_.reset();
  std::optional<ScaleOrder> unheard;
  {
    const MutexLock lock(mutex_);
    status_ = std::move(status);
    unheard = std::exchange(scale_, std::nullopt);
  }
  if (unheard) unheard->done(Unavailable("the server ends"));
}

absl::Status Supervisor::AwaitNews() {
  for (;;) {
    {
      const MutexLock lock(mutex_);
      const auto until = Clock::now() + kStepLook;
      const auto news = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return Gone() || stopping_ || scale_.has_value();
      };
      while (!news() && changed_.WaitUntil(mutex_, until)) {
      }
      if (news()) return absl::OkStatus();
    }
    hosts_back_ = hosts_back_ || (hosts_ != nullptr && hosts_->Back(Clock::now()));
    if (hosts_back_) return absl::OkStatus();
    const absl::StatusOr<parallel::EngineStatus> status = engine_.LifeStatus();
    if (!status.ok() || !steps_.Stuck(*status, Clock::now())) continue;
    return Unavailable("the ranks answer, but no step has ended for {:.0f} s",
                       std::chrono::duration<double>(steps_.patience()).count());
  }
}

void Supervisor::Recover(const absl::Status& stuck) {
  const Clock::time_point lost_at = Clock::now();
  absl::Status why = stuck.ok() ? life_->Reason() : stuck;
  const Clock::duration lived =
      engine_.GaveTokens(life_epoch_) ? Clock::duration(kFullLife) : lost_at - began_;
  engine_.Lose(why);
  life_->Kill();
  life_.reset();
  std::optional<Clock::duration> wait = policy_.Next(Clock::now(), lived);
  while (wait) {
    spdlog::error("{}; starting the ranks again, as epoch {}{}", Message(why), order_.epoch + 1,
                  wait->count() == 0
                      ? ""
                      : fmt::format(", in {:.2g} s", std::chrono::duration<double>(*wait).count()));
    if (!SleepUnlessStopping(*wait)) return;
    absl::StatusOr<std::unique_ptr<RankLife>> started = StartLife(order_.launch);
    if (started.ok()) {
      Enter(*std::move(started));
      const std::chrono::duration<double> seconds = Clock::now() - lost_at;
      spdlog::info("the ranks are there again after {:.2f} s, as epoch {}", seconds.count(),
                   order_.epoch);
      return;
    }
    if (absl::IsCancelled(started.status())) return;
    why = started.status();
    engine_.Explain(why);
    // Without the hosts that are lost it goes on at once.
    const bool other_hosts = hosts_ != nullptr && hosts_->TakeUnreached();
    if (other_hosts) {
      absl::StatusOr<LaunchOptions> left = hosts_->Choose();
      if (left.ok()) order_.launch = *std::move(left);
    }
    wait = policy_.Next(Clock::now(), other_hosts ? kFullLife : Clock::duration(0));
  }
  why = Unavailable(
      "{}; the ranks are not started again: {} within an hour is what --max-restarts "
      "allows",
      Message(why), Counted(order_.launch.max_restarts, "restart"));
  spdlog::error("{}", Message(why));
  engine_.GiveUp(why);
}

void Supervisor::TakeScale(int ranks, const parallel::Engine::ScaleDone& done) {
  if (!elastic_) return engine_.Engine::Scale(ranks, done);
  {
    const MutexLock lock(mutex_);
    if (!scale_ && !stopping_) {
      scale_ = {.ranks = ranks, .done = done};
      changed_.NotifyAll();
      return;
    }
  }
  done(ResourceExhausted("another change of the number of ranks is under way: try again later"));
}

absl::Status Supervisor::MoveTo(const LaunchOptions& launch) {
  TANDEM_RETURN_IF_ERROR(CheckRanks(order_.model, launch).status());
  TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<RankLife> life, StartLife(launch));
  absl::Status room = CheckRoom(*life->engine());
  if (!room.ok()) return life->End(std::move(room));
  engine_.WarmUp(*life->engine(), [this] {
    const MutexLock lock(mutex_);
    return !stopping_ && !Gone();
  });
  room = CheckRoom(*life->engine());  // of what has come meanwhile, too
  if (!room.ok()) return life->End(std::move(room));
  std::unique_ptr<RankLife> before = std::exchange(life_, nullptr);
  Enter(std::move(life));
  order_.launch = launch;
  EndBeside(std::move(before));
  return absl::OkStatus();
}

absl::Status Supervisor::CheckRoom(parallel::Engine& new_ranks) {
  const absl::StatusOr<parallel::EngineStatus> had = engine_.LifeStatus();
  if (!had.ok()) return absl::OkStatus();  // they are dead: any room is better
  TANDEM_ASSIGN_OR_RETURN(const parallel::EngineStatus has, new_ranks.Status());
  if (!order_.model.kv_memory) {
    TANDEM_RETURN_IF_ERROR(CheckFreeMemory(had->blocks_total, has.blocks_total));
  }
  const int64_t longest = std::min<int64_t>(engine_.LongestOpen(), had->context);
  if (longest <= has.context) return absl::OkStatus();
  return ResourceExhausted(
      "an open request may come to {} tokens, and the new ranks hold {} of one: try again when it "
      "has ended, or start the server anew with more --kv-memory",
      longest, has.context);
}

void Supervisor::EndBeside(std::shared_ptr<RankLife> life) {
  JoinEnding();
  ending_ = std::thread([life = std::move(life)]() mutable {
    static_cast<void>(life->End(absl::OkStatus()));
    life.reset();
  });
}

void Supervisor::JoinEnding() {
  if (ending_.joinable()) ending_.join();
}

void Supervisor::MoveToHosts() {
  hosts_back_ = false;
  const absl::StatusOr<LaunchOptions> launch = hosts_->Choose();
  const absl::Status moved = launch.ok() ? MoveTo(*launch) : launch.status();
  if (hosts_->TakeUnreached()) return;  // they are gone again, and are looked for
  if (!moved.ok()) hosts_->NotBack(Clock::now());
  if (moved.ok()) {
    spdlog::info("{} from now on, as epoch {}", Counted(order_.launch.ranks, "rank"), order_.epoch);
  } else {
    spdlog::warn("still {}: {}", Counted(order_.launch.ranks, "rank"), Message(moved));
  }
}

void Supervisor::Scale() {
  const Clock::time_point begin = Clock::now();
  ScaleOrder wanted;
  {
    const MutexLock lock(mutex_);
    wanted = *scale_;
  }
  LaunchOptions launch = order_.launch;
  launch.ranks = wanted.ranks;
  const bool other = wanted.ranks != order_.launch.ranks;
  const absl::Status moved = other ? MoveTo(launch) : absl::OkStatus();
  {
    const MutexLock lock(mutex_);
    scale_.reset();  // first: whoever hears of the end may ask for the next
  }
  if (moved.ok()) {
    if (hosts_ != nullptr) hosts_->Want(wanted.ranks);
    const std::chrono::duration<double> seconds = Clock::now() - begin;
    spdlog::info("{} from now on, as epoch {}, after {:.2f} s", Counted(wanted.ranks, "rank"),
                 order_.epoch, seconds.count());
    wanted.done(parallel::EngineScale{
        .ranks = wanted.ranks, .epoch = order_.epoch, .seconds = seconds.count()});
  } else {
    spdlog::warn("still {}: {}", Counted(order_.launch.ranks, "rank"), Message(moved));
    wanted.done(moved);
  }
}

bool Supervisor::SleepUnlessStopping(Clock::duration time) {
  const auto until = Clock::now() + time;
  const MutexLock lock(mutex_);
  while (!stopping_ && changed_.WaitUntil(mutex_, until)) {
  }
  return !stopping_;
}

}  // namespace tandem::launcher
