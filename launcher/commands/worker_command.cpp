#include <iostream>

#include "launcher/commands/commands.h"
#include "launcher/job/rank_job.h"
#include "parallel/engine/engine_server.h"

namespace tandem::launcher {

absl::Status Worker(const WorkerOptions& options) {
  const auto epoch = static_cast<uint64_t>(options.epoch);
  const auto serve_gateway = [epoch](parallel::Engine& engine,
                                     const core::ModelFile&) -> absl::Status {
    parallel::EngineServer::Options server_options;
    server_options.epoch = epoch;
    TANDEM_ASSIGN_OR_RETURN(server_options.address, parallel::ReadLink(std::cin));
    TANDEM_ASSIGN_OR_RETURN(const auto server,
                            parallel::EngineServer::Create(server_options, engine));
    return server->Wait();
  };
  return RunRankJob(options.model, options.ranks, serve_gateway, {},
                    {.supervised = true, .epoch = epoch});
}

}  // namespace tandem::launcher
