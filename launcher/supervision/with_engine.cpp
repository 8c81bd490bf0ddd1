#include "launcher/supervision/with_engine.h"

#include <spdlog/spdlog.h>

#include <chrono>

#include "launcher/job/job_hosts.h"
#include "launcher/job/rank_job.h"
#include "launcher/supervision/supervised_engine.h"
#include "parallel/communicators/mpi_communicator.h"

namespace tandem::launcher {

absl::Status WithEngine(const ModelOptions& model, const LaunchOptions& launch,
                        const EngineBody& body, const EnginePreparation& prepare,
                        int64_t descriptors, CleanupSignals* signals) {
  TANDEM_RETURN_IF_ERROR(CheckLaunch(model, launch));
  const auto begin = std::chrono::steady_clock::now();
  const EngineBody run = [&](parallel::Engine& engine, const core::ModelFile& file) {
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    spdlog::info("engine ready in {:.1f} s", seconds.count());
    return body(engine, file);
  };
  const auto check = [&] { return CheckJobDescriptors(launch.ranks, descriptors); };
  if ((launch.ranks > 1 || launch.elastic) && !parallel::StartedByMpi()) {
    // More ranks than the model has parts for are no matter of descriptors.
    const EnginePreparation first = [&](const core::ModelFile& file) -> absl::Status {
      TANDEM_RETURN_IF_ERROR(check());
      return prepare ? prepare(file) : absl::OkStatus();
    };
    return RunSupervised(model, launch, first, run, signals);
  }
  TANDEM_RETURN_IF_ERROR(check());
  return RunRankJob(model, launch.ranks, run, prepare);
}

}  // namespace tandem::launcher
