#include "launcher/supervised_engine.h"

#include <filesystem>
#include <mutex>
#include <optional>

#include "core/model_file.h"
#include "launcher/model_choices.h"
#include "launcher/mpi_job.h"
#include "parallel/engine_link_keys.h"
#include "parallel/model_costs.h"
#include "parallel/remote_engine.h"
#include "parallel/shard_plan.h"

namespace tandem::launcher {
namespace {

/// How long ranks that were asked to end may take before they are told to.
constexpr auto kGrace = std::chrono::milliseconds(3000);

/// Finds here, before anything is started, whatever is wrong with the model, the flags or the
/// number of ranks.
absl::StatusOr<std::unique_ptr<core::ModelFile>> CheckJob(const ModelOptions& model, int ranks) {
  TANDEM_RETURN_IF_ERROR(ModelChoices::From(model).status());
  TANDEM_ASSIGN_OR_RETURN(auto file, core::ModelFile::Open(model.model));
  TANDEM_ASSIGN_OR_RETURN(const parallel::ModelCosts costs, parallel::CostsOf(*file));
  TANDEM_RETURN_IF_ERROR(
      parallel::PlanShards(file->config(), costs, {.ranks = ranks, .weights = model.weights})
          .status());
  return file;
}

std::vector<std::string> WorkerCommand(const ModelOptions& o, int ranks) {
  std::error_code error;
  const std::string program = std::filesystem::read_symlink("/proc/self/exe", error).string();
  std::vector<std::string> command = {program, "worker",
                                      std::filesystem::absolute(o.model).string()};
  const auto add = [&command](const char* flag, std::string value) {
    command.push_back(flag);
    command.push_back(std::move(value));
  };
  add("--expected-ranks", fmt::format("{}", ranks));
  add("--threads", fmt::format("{}", o.threads));
  add("--pin", o.pin);
  add("--isa", o.isa);
  add("--activations", o.activations);
  add("--device", o.device);
  add("--kv-memory", fmt::format("{}", o.kv_memory));
  add("--prefill-chunk", fmt::format("{}", o.prefill_chunk));
  add("--max-running", fmt::format("{}", o.max_running));
  add("--max-waiting", fmt::format("{}", o.max_waiting));
  add("--collective-timeout", fmt::format("{}", o.collective_timeout));
  if (!o.kv_dtype.empty()) add("--kv-dtype", o.kv_dtype);
  if (!o.weights.empty()) add("--weights", fmt::format("{}", fmt::join(o.weights, ",")));
  if (!o.control_interface.empty()) add("--control-interface", o.control_interface);
  return command;
}

/// What the job's thread and the gateway share: whether the job has ended, and the engine to tell.
class JobNews {
 public:
  void Ended(const absl::Status& why) {
    const std::lock_guard lock(mutex_);
    ended_ = why.ok() ? Unavailable("the ranks have ended") : why;
    if (engine_ != nullptr) engine_->MarkDead(ended_);
  }
  /// The reason for the end, OK while the job runs.
  absl::Status status() {
    const std::lock_guard lock(mutex_);
    return ended_;
  }
  void Tell(parallel::RemoteEngine* engine) {
    const std::lock_guard lock(mutex_);
    engine_ = engine;
    if (engine_ != nullptr && !ended_.ok()) engine_->MarkDead(ended_);
  }

 private:
  std::mutex mutex_;
  absl::Status ended_;                        // guarded by mutex_
  parallel::RemoteEngine* engine_ = nullptr;  // guarded by mutex_
};

}  // namespace

absl::Status RunSupervised(const ModelOptions& model, const LaunchOptions& launch,
                           const EngineBody& body) {
  TANDEM_ASSIGN_OR_RETURN(const auto file, CheckJob(model, launch.ranks));
  const parallel::EngineLinkKeys keys = parallel::MakeEngineLinkKeys();
  const std::string endpoint = parallel::MakeLocalEndpoint();
  JobNews news;
  TANDEM_ASSIGN_OR_RETURN(const auto job,
                          MpiJob::Start(launch, WorkerCommand(model, launch.ranks),
                                        parallel::LinkEnvironment(endpoint, keys),
                                        [&news](const absl::Status& why) { news.Ended(why); }));

  parallel::RemoteEngine::Options options;
  options.endpoint = endpoint;
  options.server_key = keys.server.public_key;
  options.keys = keys.client;
  auto engine = parallel::RemoteEngine::Connect(options, [&news] { return news.status(); });
  if (!engine.ok()) {
    return Unavailable("the ranks ended before they could answer: {}", Message(engine.status()));
  }
  news.Tell(engine->get());
  const absl::Status status = body(**engine, *file);
  news.Tell(nullptr);
  if ((*engine)->Health().ok()) {
    (*engine)->RequestStop();
    job->Stop(kGrace);
  }
  return status;
}

}  // namespace tandem::launcher
