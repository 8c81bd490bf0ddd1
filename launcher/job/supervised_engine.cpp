#include "launcher/job/supervised_engine.h"

#include <optional>

#include "core/base/mutex.h"
#include "core/system/host_name.h"
#include "launcher/job/mpi_job.h"
#include "launcher/options/option_table.h"
#include "launcher/options/rank_command.h"
#include "launcher/options/stop_signals.h"
#include "parallel/communicators/communicator.h"
#include "parallel/engine/engine_link_keys.h"
#include "parallel/engine/remote_engine.h"

namespace tandem::launcher {
namespace {

/// How long ranks that were asked to end may take before they are told to.
constexpr auto kGrace = std::chrono::milliseconds(3000);

/// Carries the end of the job from the thread that sees it to the engine.
class JobNews {
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

}  // namespace

absl::Status RunSupervised(const ModelOptions& model, const LaunchOptions& launch,
                           const EnginePreparation& prepare, const EngineBody& body,
                           CleanupSignals* signals) {
  TANDEM_ASSIGN_OR_RETURN(const auto file, CheckRanks(model, launch));
  if (prepare) TANDEM_RETURN_IF_ERROR(prepare(*file));
  WorkerOptions worker{.model = model, .ranks = launch.ranks};
  const parallel::EngineLinkKeys keys = parallel::MakeEngineLinkKeys();
  const std::string endpoint = parallel::MakeLocalEndpoint();
  JobNews news;
  TANDEM_ASSIGN_OR_RETURN(
      const auto job,
      MpiJob::Start(
          launch, CommandOfThisProgram("worker", RowsOf(worker)),
          parallel::LinkText(endpoint, keys), [&news](const absl::Status& why) { news.Ended(why); },
          kToStandardError, signals));

  parallel::RemoteEngine::Options options;
  options.endpoint = endpoint;
  options.who = fmt::format("rank 0 on host {}", core::HostName());  // a socket of this host
  options.server_key = keys.server.public_key;
  options.keys = keys.client;
  const auto keep_waiting = [&news] {
    const absl::Status told = StopSignals::CheckPending();
    return told.ok() ? news.status() : told;
  };
  auto engine = parallel::RemoteEngine::Connect(options, keep_waiting);
  if (absl::IsCancelled(engine.status())) {
    job->Stop(std::chrono::milliseconds(0));
    return engine.status();
  }
  if (!engine.ok()) {
    return job->Explain(
        Unavailable("the ranks ended before they could answer: {}", Message(engine.status())));
  }
  news.Tell(engine->get());
  absl::Status status = body(**engine, *file);
  news.Tell(nullptr);
  if ((*engine)->Health().ok()) {
    (*engine)->RequestStop();
    job->Stop(kGrace);
    return status;
  }
  return status.ok() ? status : job->Explain(std::move(status));
}

}  // namespace tandem::launcher
