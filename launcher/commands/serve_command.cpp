#include <signal.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "core/model/attention_text.h"
#include "core/system/host_name.h"
#include "frontend/server/listener.h"
#include "frontend/server/server.h"
#include "frontend/service/service.h"
#include "kv_store/base/files.h"
#include "launcher/commands/commands.h"
#include "launcher/commands/http_side.h"
#include "launcher/commands/text_side.h"
#include "launcher/option_tables/option_table.h"
#include "launcher/options/stop_signals.h"
#include "launcher/state/kv_agent.h"
#include "launcher/state/served_state.h"
#include "launcher/state/state_directory.h"
#include "launcher/supervision/with_engine.h"
#include "parallel/communicators/communicator.h"
#include "parallel/communicators/mpi_communicator.h"

namespace tandem::launcher {
namespace {

constexpr int64_t kStateDescriptors = 40;  // that are open before the first turn

/// mpirun ends all ranks with SIGTERM when one dies: wait for the news of who it was, which clients
/// should hear.
void AwaitDeathNotice(parallel::Engine& engine) {
  for (int i = 0; i < 50 && engine.Health().ok(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

/// On a full disk a server without conversations begins none there; null then. One that has some
/// must not look as if they were gone.
absl::StatusOr<std::unique_ptr<ServedState>> OpenWhereThereIsRoom(const StateOptions& state,
                                                                  const std::string& endpoint) {
  const absl::Status room = CheckRoom(state.directory);
  if (room.ok()) return ServedState::Open(state, endpoint);
  const std::string full = fmt::format("--state {}: {}", state.directory, Message(room));
  const std::string remedy =
      fmt::format("make room, at least {} MiB and some files", kLeastRoom >> 20);
  if (kv_store::Exists(state.directory + "/conversations")) {
    auto opened = ServedState::Open(state, endpoint);
    if (opened.ok()) return opened;
    return ResourceExhausted("{}, and conversations that are there cannot be opened ({}); {}", full,
                             Message(opened.status()), remedy);
  }
  if (state.durability > 1 || !state.recover.empty()) {
    return ResourceExhausted("{}; {}", full, remedy);
  }
  if (kv_store::Exists(state.directory)) {
    TANDEM_RETURN_IF_ERROR(CheckStateDirectory(state.directory, /*may_make=*/false));
  }
  spdlog::warn("{}: conversations and their KV end with this process; {}, and start again", full,
               remedy);
  return nullptr;
}

absl::StatusOr<std::unique_ptr<ServedState>> OpenState(const ServeOptions& options) {
  const StateOptions& state = options.model.state;
  if (state.directory.empty()) return nullptr;
  return OpenWhereThereIsRoom(state, options.listen);
}

/// Of options that mean nothing without a state directory.
absl::Status CheckStateOptions(const StateOptions& state, const OptionSources& sources) {
  if (!state.directory.empty()) return absl::OkStatus();
  if (!state.recover.empty()) {
    return InvalidArgument("--recover {}: nothing is kept without --state", state.recover);
  }
  if (state.durability > 1) {
    return InvalidArgument("--durability {}: nothing is kept without --state", state.durability);
  }
  if (!state.key_file.empty()) {
    return InvalidArgument("--state-key: there is nothing to encrypt without --state");
  }
  StateOptions copy = state;
  for (const OptionRow& row : StateRows(copy)) {
    if (!sources.Given(row.flag())) continue;
    return InvalidArgument("{}: nothing is kept without --state", row.flag());
  }
  return absl::OkStatus();
}

/// What is there before the model's weights are read: whatever may be wrong with the options.
struct Prepared {
  std::unique_ptr<frontend::TextModel> text_model;
  std::shared_ptr<frontend::Listener> listener;  // clients that come early wait
  std::unique_ptr<ServedState> state;
  HttpPrepared http;
};

/// The endpoint as others may write it: all addresses are this host's name.
std::string ReachableFrom(std::string endpoint) {
  for (const std::string_view all : {"//0.0.0.0:", "//[::]:"}) {
    const size_t at = endpoint.find(all);
    if (at == std::string::npos) continue;
    return endpoint.replace(at, all.size(), fmt::format("//{}:", core::HostName()));
  }
  return endpoint;
}

/// how_long: of a number of seconds.
void TellOfAgent(const StateOptions& state, fmt::format_string<const double&> how_long) {
  if (!AgentRuns(state)) return;
  spdlog::info(
      "the agent that keeps the saved KV in {} {}; end it with: tandem agent stop --state {}",
      AgentPath(state), fmt::format(how_long, state.agent_ttl), state.directory);
}

}  // namespace

absl::Status Serve(const ServeOptions& options) {
  const auto policy = frontend::ParseContextPolicy(options.context_policy);
  if (!policy.ok()) return InvalidArgument("--context-policy: {}", Message(policy.status()));
  TANDEM_RETURN_IF_ERROR(CheckStateOptions(options.model.state, options.model.sources));
  StopSignals signals;
  Prepared prepared;
  ModelOptions model = options.model;  // of the ranks, which start after `prepare`
  const auto prepare = [&](const core::ModelFile& file) -> absl::Status {
    TANDEM_ASSIGN_OR_RETURN(prepared.text_model, LoadTextSide(file, options.chat_template, false));
    auto listener = frontend::Listen(options.listen);
    if (!listener.ok()) return options.model.sources.Blame("--listen", listener.status());
    prepared.listener = std::make_shared<frontend::Listener>(*std::move(listener));
    TANDEM_ASSIGN_OR_RETURN(prepared.http, PrepareHttp(options.http, options.model.sources));
    TANDEM_ASSIGN_OR_RETURN(prepared.state, OpenState(options));
    // KV that ranks kept all the same would stay when its conversation is deleted.
    if (!prepared.state) model.state = {};
    return absl::OkStatus();
  };
  const auto serve = [&](parallel::Engine& engine, const core::ModelFile& file) -> absl::Status {
    ServedState* const state = prepared.state.get();
    if (state) TANDEM_RETURN_IF_ERROR(state->Settle());
    TANDEM_RETURN_IF_ERROR(StopSignals::CheckPending());
    frontend::ServerOptions server_options;
    server_options.endpoint = options.listen;
    server_options.listener = prepared.listener;
    server_options.limits.frame_bytes = options.max_message;
    server_options.clients = options.max_clients;
    frontend::ServiceOptions service_options;
    service_options.conversations = {.conversations = options.max_conversations,
                                     .bytes = options.conversation_memory};
    service_options.context_policy = *policy;
    // What a front end takes has room, and numbers of tokens may double in memory.
    frontend::RequestPreparerLimits& waiting = service_options.preparer;
    waiting.client_bytes = std::max(waiting.client_bytes, 2 * options.http.max_body);
    waiting.total_bytes = std::max(waiting.total_bytes, 2 * waiting.client_bytes);
    const core::AttentionForm& attention = file.config().attention;
    if (!attention.dense()) service_options.attention = core::AttentionText(attention);
    service_options.resume_grace = std::chrono::duration_cast<std::chrono::milliseconds>(
        std::chrono::duration<double>(options.resume_grace));
    const auto drain_time = std::chrono::duration_cast<std::chrono::milliseconds>(
        std::chrono::duration<double>(options.drain_timeout));
    const int64_t later = frontend::Server::OtherDescriptors(/*has_log=*/state != nullptr);
    if (prepared.http.listener != nullptr) {
      server_options.further_descriptors = HttpDescriptors(options.http, later);
    }
    const frontend::TextModel& text_model = *prepared.text_model;
    frontend::Service service(service_options, engine, text_model, state ? &state->log() : nullptr);
    TANDEM_ASSIGN_OR_RETURN(const auto server, frontend::Server::Create(server_options, service));
    if (state) {
      state->RestoreTo(service);
      state->directory().Announce(server->endpoint());
    }
    signals.Watch([&](int signal) {
      if (signal == SIGTERM && parallel::StartedByMpi()) AwaitDeathNotice(engine);
      const absl::Status health = engine.Health();
      if (!health.ok() && !absl::IsUnknown(health)) return;
      if (signal == SIGTERM && !service.draining() && drain_time.count() > 0) {
        service.Drain(drain_time);
      } else {
        service.Stop();
      }
    });
    std::unique_ptr<HttpSide> http;
    if (prepared.http.listener != nullptr) {
      TANDEM_ASSIGN_OR_RETURN(
          http, HttpSide::Start(options.http, options.model.model, std::move(prepared.http),
                                service, server->connections() + later));
    }
    if (http) spdlog::info("for clients of HTTP: http://{}/v1", http->address());
    spdlog::info("serving {} on {}", text_model.name(), server->endpoint());
    spdlog::info("to chat: tandem chat --connect {}", ReachableFrom(server->endpoint()));
    if (state) TellOfAgent(options.model.state, "stays for {:g} s after its last use");
    absl::Status status = server->Run();
    http.reset();
    signals.Unwatch();
    if (state) TellOfAgent(options.model.state, "stays for {:g} s more");
    return status;
  };
  const bool has_state = !options.model.state.directory.empty();
  const int64_t descriptors = frontend::Server::LeastDescriptors(has_state) +
                              (has_state ? kStateDescriptors : 0) +
                              (options.http.address == "off" ? 0 : HttpSide::kLeastDescriptors);
  return WithEngine(model, options.launch, serve, prepare, descriptors);
}

}  // namespace tandem::launcher
