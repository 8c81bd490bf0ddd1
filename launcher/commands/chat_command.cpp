#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <system_error>
#include <thread>

#include "core/base/temporary_folder.h"
#include "frontend/client/chat_terminal.h"
#include "frontend/client/client.h"
#include "frontend/server/server.h"
#include "launcher/commands/commands.h"
#include "launcher/commands/text_side.h"
#include "launcher/commands/told_client.h"
#include "launcher/option_tables/option_table.h"
#include "launcher/options/cleanup_signals.h"
#include "launcher/supervision/with_engine.h"
#include "parallel/communicators/mpi_communicator.h"

namespace tandem::launcher {
namespace {

/// The sampling of a chat: what was asked for; else, on a terminal, what `file` recommends (null:
/// it is not known), else what people are used to.
core::SamplingParams SamplingOf(const SamplingChoices& choices, const core::GgufFile* file,
                                bool terminal) {
  const auto recommended = [&](const char* key, double usual) -> double {
    if (!terminal || file == nullptr) return usual;
    const std::string full = std::string("general.sampling.") + key;
    const absl::StatusOr<float> real = file->Float(full);
    if (real.ok()) return *real;
    const absl::StatusOr<int64_t> whole = file->Integer(full);
    return whole.ok() ? static_cast<double>(*whole) : usual;
  };
  // A file may recommend anything: what is out of the flags' ranges is not taken.
  const auto choose = [&](const auto& choice, const char* key, double usual, double least,
                          double most) -> double {
    if (choice) return static_cast<double>(*choice);
    const double value = recommended(key, usual);
    return value >= least && value <= most ? value : usual;
  };
  core::SamplingParams params;
  params.temperature =
      static_cast<float>(choose(choices.temperature, "temp", terminal ? 0.8 : 0, 0, 100));
  params.top_k = static_cast<int32_t>(choose(choices.top_k, "top_k", 0, -1, 1 << 20));
  params.top_p = static_cast<float>(choose(choices.top_p, "top_p", terminal ? 0.95 : 1, 0, 1));
  params.min_p = static_cast<float>(choose(choices.min_p, "min_p", 0, 0, 1));
  params.repetition_penalty =
      static_cast<float>(choose(choices.repetition_penalty, "penalty_repeat", 1, 0.01, 100));
  params.presence_penalty = static_cast<float>(choices.presence_penalty.value_or(0));
  params.frequency_penalty = static_cast<float>(choices.frequency_penalty.value_or(0));
  return params;
}

/// What a file recommends for sampling that a chat cannot do, in a line; empty where it is nothing.
std::string UnusedRecommendations(const core::GgufFile& file) {
  constexpr std::string_view kPrefix = "general.sampling.";
  // Those that are taken, and those that say something beside others alone.
  static constexpr std::string_view kKnown[] = {"temp",         "top_k",          "top_p",
                                                "min_p",        "penalty_repeat", "xtc_threshold",
                                                "mirostat_tau", "mirostat_eta"};
  std::string unused;
  for (const core::GgufEntry& entry : file.entries()) {
    if (!entry.key.starts_with(kPrefix) || file.IsNeutral(entry)) continue;
    const std::string_view key = entry.key.substr(kPrefix.size());
    if (std::find(std::begin(kKnown), std::end(kKnown), key) != std::end(kKnown)) continue;
    // The repetition penalty looks at everything, which llama.cpp calls -1.
    if (key == "penalty_last_n" && file.Integer(entry.key).value_or(0) == -1) continue;
    unused += fmt::format("{}{} {}", unused.empty() ? "" : ", ", core::PrintableText(key, 40),
                          file.ValueText(entry));
  }
  if (unused.empty()) return "";
  return "The model recommends sampling that is not built here and does nothing: " + unused + ".";
}

absl::Status ChatAt(const std::string& endpoint, const ChatOptions& options,
                    const core::GgufFile* file) {
  auto client = ConnectTold(endpoint);
  if (!client.ok()) return options.model.sources.Blame("--connect", client.status());
  frontend::ChatTerminalOptions terminal;
  terminal.system = options.system;
  terminal.params = options.generation;
  terminal.params.sampling = SamplingOf(options.sampling, file, frontend::IsTerminal(terminal));
  if (file != nullptr) terminal.notice = UnusedRecommendations(*file);
  terminal.place = {.conversation = options.conversation,
                    .tenant = options.tenant,
                    .context_policy = options.context_policy};
  return frontend::InFlags(frontend::RunChatTerminal(**client, terminal));
}

/// That nothing was asked of an engine which is another process's.
absl::Status CheckNoEngineFlags(ChatOptions options) {
  std::vector<OptionRow> rows = LaunchRows(options.launch);
  for (OptionRow& row : ModelRows(options.model)) rows.push_back(std::move(row));
  std::vector<std::string> flags = {"--chat-template"};
  for (const OptionRow& row : rows) flags.push_back(row.flag());
  for (const std::string& flag : flags) {
    if (!options.model.sources.Given(flag)) continue;
    return InvalidArgument(
        "{} is for a MODEL, not for --connect: the server has it from its own command line", flag);
  }
  return absl::OkStatus();
}

/// A server for this chat alone, behind a socket that no other user can open: abstract sockets have
/// no permissions, so it stands in a folder of mode 0700.
absl::Status ChatWith(parallel::Engine& engine, const core::ModelFile& file,
                      const frontend::TextModel& text_model, const std::string& folder,
                      const ChatOptions& options) {
  frontend::ServerOptions server_options;
  server_options.endpoint = "ipc://" + folder + "/server";
  frontend::Service service({}, engine, text_model);
  auto server = frontend::Server::Create(server_options, service);
  absl::Status chat_status = server.status();
  absl::Status server_status;
  if (server.ok()) {
    std::thread serving([&] { server_status = (*server)->Run(); });
    chat_status = ChatAt((*server)->endpoint(), options, &file.gguf());
    service.Stop();
    serving.join();
  }
  return server_status.ok() ? chat_status : server_status;
}

absl::Status MakeFolder(TemporaryFolder& folder) {
  TANDEM_ASSIGN_OR_RETURN(folder, TemporaryFolder::Make("chat", {"/tmp", "/dev/shm"}));
  return absl::OkStatus();
}

/// What gives the terminal its settings back, of which line editing changes some.
std::function<void()> RestoredTerminal() {
  termios before{};
  if (tcgetattr(STDIN_FILENO, &before) != 0) return [] {};
  return [before] { tcsetattr(STDIN_FILENO, TCSANOW, &before); };
}

}  // namespace

absl::Status Chat(const ChatOptions& options) {
  if (options.connect.empty() == options.model.model.empty()) {
    if (options.connect.empty()) {
      return InvalidArgument("chat takes either a MODEL or --connect ENDPOINT");
    }
    return InvalidArgument("--connect {}: chat takes either a MODEL or --connect, and not both",
                           options.connect);
  }
  if (!options.context_policy.empty()) {
    const auto policy = frontend::ParseContextPolicy(options.context_policy);
    if (!policy.ok()) return InvalidArgument("--context-policy: {}", Message(policy.status()));
  }
  TANDEM_RETURN_IF_ERROR(CheckGeneration(options.generation));
  CleanupSignals signals;
  const auto restored = signals.Around([] { return RestoredTerminal(); });
  if (!options.connect.empty()) {
    TANDEM_RETURN_IF_ERROR(CheckNoEngineFlags(options));
    return ChatAt(options.connect, options, nullptr);
  }
  if (parallel::StartedByMpi()) {
    return InvalidArgument(
        "chat cannot run under mpirun, which keeps the terminal to itself; use "
        "tandem chat MODEL -n RANKS");
  }
  std::unique_ptr<frontend::TextModel> text_model;
  TemporaryFolder folder;
  CleanupSignals::Registration removed;
  return WithEngine(
      options.model, options.launch,
      [&](parallel::Engine& engine, const core::ModelFile& file) {
        return ChatWith(engine, file, *text_model, folder.path(), options);
      },
      [&](const core::ModelFile& file) -> absl::Status {
        TANDEM_RETURN_IF_ERROR(CheckGeneration(options.generation, file.config().context));
        TANDEM_ASSIGN_OR_RETURN(text_model, LoadTextSide(file, options.chat_template, false));
        absl::Status made;
        removed = signals.Around([&] {
          made = MakeFolder(folder);
          return [path = folder.path()] {
            std::error_code error;
            if (!path.empty()) std::filesystem::remove_all(path, error);
          };
        });
        return made;
      },
      frontend::Server::LeastDescriptors(/*has_log=*/false), &signals);
}

}  // namespace tandem::launcher
