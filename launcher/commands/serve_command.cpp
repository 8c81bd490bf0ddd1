#include <malloc.h>
#include <signal.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <thread>

#include "frontend/server/server.h"
#include "launcher/commands/commands.h"
#include "launcher/commands/text_side.h"
#include "launcher/job/rank_job.h"
#include "launcher/options/stop_signals.h"
#include "launcher/state/served_state.h"
#include "parallel/communicators/mpi_communicator.h"

namespace tandem::launcher {
namespace {

/// mpirun ends all ranks with SIGTERM when one dies: wait for the news of who it was, which clients
/// should hear.
void AwaitDeathNotice(parallel::Engine& engine) {
  for (int i = 0; i < 50 && engine.Health().ok(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

absl::StatusOr<std::unique_ptr<ServedState>> OpenState(const ServeOptions& options) {
  const StateOptions& state = options.model.state;
  if (!state.directory.empty()) return ServedState::Open(state, options.listen);
  if (!state.recover.empty()) {
    return InvalidArgument("--recover {}: nothing is kept without --state", state.recover);
  }
  if (state.durability > 1) {
    return InvalidArgument("--durability {}: nothing is kept without --state", state.durability);
  }
  if (state.key_file.empty()) return nullptr;
  return InvalidArgument("--state-key: there is nothing to encrypt without --state");
}

/// What clients have cost goes back to the system: left to itself, glibc raises this bound with
/// each block beyond it that is freed, and keeps what was below. Not for a process that computes,
/// since such blocks take longer to get.
void ReturnMemoryEarly() {
  constexpr int kMappedBytes = 256 << 10;
  (void)mallopt(M_MMAP_THRESHOLD, kMappedBytes);
}

}  // namespace

absl::Status Serve(const ServeOptions& options) {
  const auto policy = frontend::ParseContextPolicy(options.context_policy);
  if (!policy.ok()) return InvalidArgument("--context-policy: {}", Message(policy.status()));
  StopSignals signals;
  std::unique_ptr<ServedState> state;
  // A rank of mpirun's does not know yet whether it is the one that serves.
  const bool early = !parallel::StartedByMpi();
  if (early && options.launch.ranks > 1) ReturnMemoryEarly();
  if (early) {
    TANDEM_ASSIGN_OR_RETURN(state, OpenState(options));
  }
  return WithEngine(
      options.model, options.launch,
      [&](parallel::Engine& engine, const core::ModelFile& file) -> absl::Status {
        TANDEM_ASSIGN_OR_RETURN(const auto text_model,
                                LoadTextSide(file, options.chat_template, false));
        if (!early) {
          TANDEM_ASSIGN_OR_RETURN(state, OpenState(options));
        }
        if (state) TANDEM_RETURN_IF_ERROR(state->Settle());
        frontend::ServerOptions server_options;
        server_options.endpoint = options.listen;
        server_options.limits.frame_bytes = options.max_message;
        server_options.clients = options.max_clients;
        server_options.conversations = {.conversations = options.max_conversations,
                                        .bytes = options.conversation_memory};
        server_options.context_policy = *policy;
        server_options.resume_grace = std::chrono::duration_cast<std::chrono::milliseconds>(
            std::chrono::duration<double>(options.resume_grace));
        TANDEM_ASSIGN_OR_RETURN(const auto server,
                                frontend::Server::Create(server_options, engine, *text_model,
                                                         state ? &state->log() : nullptr));
        if (state) {
          state->RestoreTo(*server);
          state->directory().Announce(server->endpoint());
        }
        signals.Watch([&](int signal) {
          if (signal == SIGTERM && parallel::StartedByMpi()) AwaitDeathNotice(engine);
          if (engine.Health().ok()) server->Stop();
        });
        spdlog::info("serving {} on {}", text_model->name(), server->endpoint());
        const absl::Status status = server->Run();
        signals.Unwatch();
        return status;
      });
}

}  // namespace tandem::launcher
