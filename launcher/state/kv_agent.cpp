#include "launcher/state/kv_agent.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <string_view>
#include <thread>
#include <vector>

#include "core/base/descriptor_limit.h"
#include "core/base/errno_text.h"
#include "kv_store/agent_link/agent_directory.h"
#include "kv_store/agent_link/agent_tier.h"
#include "kv_store/base/files.h"
#include "launcher/option_tables/option_table.h"
#include "launcher/option_tables/rank_command.h"
#include "launcher/state/state_directory.h"

namespace tandem::launcher {
namespace {

constexpr auto kStartTime = std::chrono::seconds(10);
constexpr auto kEndTime = std::chrono::minutes(2);
constexpr auto kStartAgain = std::chrono::seconds(1);
constexpr auto kPollInterval = std::chrono::milliseconds(5);
constexpr int64_t kDescriptors = 16;         // of a socket to it
constexpr off_t kLogBytes = off_t{1} << 20;  // more is cut off at the next start

/// The variables of this process, without those of its MPI job and without our options.
std::vector<std::string> AgentEnvironment() {
  std::vector<std::string> kept;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view variable = *entry;
    const auto begins = [&](std::string_view with) { return variable.starts_with(with); };
    const std::array<std::string_view, 5> left_out = {"OMPI_", "PMIX_", "PMI_", "ORTE_", "TANDEM_"};
    if (std::none_of(left_out.begin(), left_out.end(), begins)) kept.emplace_back(variable);
  }
  return kept;
}

/// Never returns, and calls only what is safe between fork and exec. It closes all files: whoever
/// started this process waits for the ends of its pipes.
[[noreturn]] void BecomeAgent(char* const* arguments, char* const* environment, int log) {
  setsid();
  if (fork() != 0) _exit(0);  // nobody's child, so that nobody has to wait for it
  sigset_t none;
  sigemptyset(&none);
  pthread_sigmask(SIG_SETMASK, &none, nullptr);
  const int null = open("/dev/null", O_RDWR);
  dup2(null, STDIN_FILENO);
  dup2(null, STDOUT_FILENO);
  dup2(log, STDERR_FILENO);
  close_range(STDERR_FILENO + 1, ~0U, 0);
  if (chdir("/") != 0) _exit(127);
  execve(arguments[0], arguments, environment);
  _exit(127);
}

absl::Status StartAgent(const StateOptions& state, const std::string& path) {
  const std::string log_path = path + "/agent.log";
  TANDEM_RETURN_IF_ERROR(kv_store::MakeWay(log_path, kv_store::FileKind::kFile));
  TANDEM_ASSIGN_OR_RETURN(const int log, kv_store::OpenOwnLog(log_path));
  struct stat facts {};
  if (fstat(log, &facts) == 0 && facts.st_size > kLogBytes && ftruncate(log, 0) != 0) {
    // The log grows on then.
  }
  AgentOptions agent{.directory = path, .state = state};
  std::vector<std::string> arguments = CommandOfThisProgram("agent", RowsOf(agent));
  arguments.insert(arguments.begin() + 2, "run");
  std::vector<std::string> variables = AgentEnvironment();
  const std::vector<char*> argument_pointers = Pointers(arguments);
  const std::vector<char*> variable_pointers = Pointers(variables);
  const pid_t child = fork();
  if (child == 0) BecomeAgent(argument_pointers.data(), variable_pointers.data(), log);
  const int why = errno;
  close(log);
  if (child < 0) return Unavailable("cannot start a process: {}", ErrnoText(why));
  waitpid(child, nullptr, 0);
  return absl::OkStatus();
}

}  // namespace

std::string AgentPath(const StateOptions& state) {
  std::array<char, 256> host{};
  if (gethostname(host.data(), host.size() - 1) != 0) host[0] = '-';
  return std::filesystem::absolute(state.directory).string() + "/kv/" + host.data();
}

std::string ErasurePath(const std::string& agent_path) {
  const std::filesystem::path path(agent_path);
  return fmt::format("{}/kv.{}.erased", path.parent_path().parent_path().string(),
                     path.filename().string());
}

bool AgentRuns(const StateOptions& state) {
  const std::string path = AgentPath(state);
  if (!kv_store::Exists(path)) return false;
  const auto directory = kv_store::AgentDirectory::Open(path);
  return directory.ok() && directory->Probe().ok();
}

absl::StatusOr<bool> StopAgent(const StateOptions& state) {
  TANDEM_RETURN_IF_ERROR(CheckStateDirectory(state.directory, /*may_make=*/false));
  // ZeroMQ ends the process where it gets none.
  TANDEM_RETURN_IF_ERROR(CheckDescriptors(OpenDescriptors() + kDescriptors));
  if (!AgentRuns(state)) return false;
  // Its server would start another.
  TANDEM_ASSIGN_OR_RETURN(const auto taken,
                          StateDirectory::Take(state.directory, "nothing: it ends the agent"));
  const std::string path = AgentPath(state);
  {
    TANDEM_ASSIGN_OR_RETURN(auto directory, kv_store::AgentDirectory::Open(path));
    kv_store::AgentTier agent(std::move(directory), {});
    TANDEM_RETURN_IF_ERROR(agent.StopAgent());
  }
  // It holds its lock until everything is closed.
  const auto end = std::chrono::steady_clock::now() + kEndTime;
  while (std::chrono::steady_clock::now() < end) {
    TANDEM_ASSIGN_OR_RETURN(auto directory, kv_store::AgentDirectory::Open(path));
    if (directory.Lock().ok()) return true;
    std::this_thread::sleep_for(kPollInterval);
  }
  return absl::DeadlineExceededError(fmt::format(
      "the agent that keeps KV in {} was told to end, and still writes; see {}/agent.log", path,
      path));
}

absl::Status EnsureAgent(const StateOptions& state) {
  const std::string path = AgentPath(state);
  TANDEM_RETURN_IF_ERROR(kv_store::MakeWay(kv_store::FolderOf(path), kv_store::FileKind::kFolder));
  TANDEM_ASSIGN_OR_RETURN(const auto directory, kv_store::AgentDirectory::Open(path));
  if (directory.Probe().ok()) return absl::OkStatus();
  TANDEM_RETURN_IF_ERROR(directory.CheckLock());
  const auto end = std::chrono::steady_clock::now() + kStartTime;
  auto start = std::chrono::steady_clock::now();
  while (!directory.Probe().ok()) {
    const auto now = std::chrono::steady_clock::now();
    if (now > end) {
      return Unavailable("the agent that keeps KV in {} does not come up; see {}/agent.log", path,
                         path);
    }
    // An agent that was just ending may have been in the way of the one that was started.
    if (now >= start) {
      if (const absl::Status room = CheckRoom(path); !room.ok()) {
        return Unavailable("no agent keeps KV in {}: {}; make room", path, Message(room));
      }
      TANDEM_RETURN_IF_ERROR(StartAgent(state, directory.path()));
      start = now + kStartAgain;
    }
    std::this_thread::sleep_for(kPollInterval);
  }
  return absl::OkStatus();
}

}  // namespace tandem::launcher
