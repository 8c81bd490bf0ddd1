#include "launcher/supervision/rank_life.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "core/system/host_name.h"
#include "launcher/option_tables/option_table.h"
#include "launcher/option_tables/rank_command.h"
#include "parallel/communicators/communicator.h"
#include "parallel/engine/engine_link_keys.h"
#include "parallel/start/start_table.h"

namespace tandem::launcher {
namespace {

using Clock = std::chrono::steady_clock;

/// How long ranks that were asked to end may take before they are told to.
constexpr auto kGrace = std::chrono::milliseconds(3000);
constexpr auto kLookInterval = std::chrono::milliseconds(5);

/// The wait for rank 0 once all ranks are ready: it answers at once, or is stopped.
class WaitForAnswer {
 public:
  WaitForAnswer(MpiJob& job, Clock::duration patience) : job_(job), patience_(patience) {}

  absl::Status Check(const std::string& who) {
    const auto now = Clock::now();
    // Only time in which this process runs counts.
    if (job_.Ready()) waited_ += std::min<Clock::duration>(now - last_, std::chrono::seconds(1));
    last_ = now;
    if (waited_ < patience_) return absl::OkStatus();
    return absl::DeadlineExceededError(
        fmt::format("{} has given no sign for {:.0f} s since its start was over", who,
                    std::chrono::duration<double>(waited_).count()));
  }

 private:
  MpiJob& job_;
  const Clock::duration patience_;
  Clock::time_point last_ = Clock::now();
  Clock::duration waited_{0};
};

}  // namespace

/// Carries the end of the job from the thread that sees it to the engine.
class RankLife::News {
 public:
  void Ended(const absl::Status& why) {
    const MutexLock lock(mutex_);
    ended_ = why.ok() ? Unavailable("the ranks have ended") : why;
    if (engine_ != nullptr) engine_->MarkDead(ended_);
  }
  /// The reason for the end, OK while the job runs.
  absl::Status status() {
    const MutexLock lock(mutex_);
    return ended_;
  }
  void Tell(parallel::RemoteEngine* engine) {
    const MutexLock lock(mutex_);
    engine_ = engine;
    if (engine_ != nullptr && !ended_.ok()) engine_->MarkDead(ended_);
  }

 private:
  Mutex mutex_;
  absl::Status ended_ ABSL_GUARDED_BY(mutex_);
  parallel::RemoteEngine* engine_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

RankLife::RankLife() : news_(std::make_unique<News>()) {}

RankLife::~RankLife() { news_->Tell(nullptr); }

absl::StatusOr<std::unique_ptr<RankLife>> RankLife::Start(const RankLifeOrder& order) {
  std::unique_ptr<RankLife> life(new RankLife());
  WorkerOptions worker{.model = order.model,
                       .ranks = order.launch.ranks,
                       .epoch = static_cast<int64_t>(order.epoch)};
  const parallel::EngineLinkKeys keys = parallel::MakeEngineLinkKeys();
  const std::string endpoint = parallel::MakeLocalEndpoint();
  const auto patience =
      parallel::StartPatience(std::chrono::duration<double>(order.model.collective_timeout));
  TANDEM_ASSIGN_OR_RETURN(
      life->job_, MpiJob::Start(
                      {.launch = order.launch,
                       .command = CommandOfThisProgram("worker", RowsOf(worker)),
                       .patience = patience,
                       .input = parallel::LinkText(endpoint, keys),
                       .on_unreached = order.on_unreached},
                      [news = life->news_.get()](const absl::Status& why) { news->Ended(why); },
                      order.signals));
  MpiJob& job = *life->job_;

  parallel::RemoteEngine::Options options;
  options.endpoint = endpoint;
  options.who = fmt::format("rank 0 on host {}", core::HostName());  // a socket of this host
  options.epoch = order.epoch;
  options.on_gone = order.on_gone;
  options.reason_wait = order.reason_wait;
  options.server_key = keys.server.public_key;
  options.keys = keys.client;
  WaitForAnswer waits(job, patience);
  const auto keep_waiting = [&] {
    TANDEM_RETURN_IF_ERROR(order.keep_waiting());
    TANDEM_RETURN_IF_ERROR(life->news_->status());
    return waits.Check(options.who);
  };
  auto engine = parallel::RemoteEngine::Connect(options, keep_waiting);
  if (absl::IsCancelled(engine.status())) {
    job.Stop(std::chrono::milliseconds(0));
    return engine.status();
  }
  if (absl::IsDeadlineExceeded(engine.status())) return job.Explain(engine.status());
  if (!engine.ok()) {
    return job.Explain(
        Unavailable("the ranks ended before they could answer: {}", Message(engine.status())));
  }
  life->engine_ = *std::move(engine);
  life->news_->Tell(life->engine_.get());
  return life;
}

absl::Status RankLife::End(absl::Status status) {
  news_->Tell(nullptr);
  if (engine_->Health().ok()) {
    engine_->RequestStop();
    job_->Stop(kGrace);
    return status;
  }
  return status.ok() ? status : job_->Explain(std::move(status));
}

absl::Status RankLife::Reason() {
  absl::Status reason = engine_->Health();
  while (reason.ok() || absl::IsUnknown(reason)) {
    std::this_thread::sleep_for(kLookInterval);
    reason = engine_->Health();
  }
  return reason;
}

void RankLife::Kill() {
  news_->Tell(nullptr);
  job_->Kill();
}

}  // namespace tandem::launcher
