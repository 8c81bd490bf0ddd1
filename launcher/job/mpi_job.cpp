#include "launcher/job/mpi_job.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <regex>
#include <sstream>

#include "core/base/errno_text.h"
#include "launcher/options/rank_command.h"

namespace tandem::launcher {
namespace {

constexpr auto kPollInterval = std::chrono::milliseconds(20);
constexpr auto kEndInterval = std::chrono::milliseconds(200);
constexpr auto kTermination = std::chrono::milliseconds(6000);

std::vector<std::string> MpirunArguments(
    const LaunchOptions& launch, const std::vector<std::string>& command,
    const std::vector<std::pair<std::string, std::string>>& environment) {
  std::vector<std::string> arguments = {"mpirun"};
  if (geteuid() == 0) arguments.push_back("--allow-run-as-root");
  for (const char* flag : {"--oversubscribe", "--bind-to", "none", "-n"}) arguments.push_back(flag);
  arguments.push_back(fmt::format("{}", launch.ranks));
  if (!launch.hostfile.empty()) {
    arguments.push_back("--hostfile");
    arguments.push_back(launch.hostfile);
  }
  for (const auto& [name, value] : environment) {
    arguments.push_back("-x");
    arguments.push_back(name);
  }
  std::istringstream words(launch.mpirun_arguments);
  for (std::string word; words >> word;) arguments.push_back(word);
  arguments.insert(arguments.end(), command.begin(), command.end());
  return arguments;
}

/// Never returns, and calls only what is safe between fork and exec.
[[noreturn]] void BecomeMpirun(char* const* arguments, char* const* environment, JobOutput output,
                               int error_pipe, int exec_failed_pipe) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  sigset_t none;
  sigemptyset(&none);
  pthread_sigmask(SIG_SETMASK, &none, nullptr);
  const int null = open("/dev/null", O_RDWR);
  dup2(null, STDIN_FILENO);
  if (output == JobOutput::kStandardError) dup2(error_pipe, STDOUT_FILENO);
  dup2(error_pipe, STDERR_FILENO);
  execvpe("mpirun", arguments, environment);
  const int error = errno;
  [[maybe_unused]] const ssize_t written = write(exec_failed_pipe, &error, sizeof(error));
  _exit(127);
}

/// What a child has written; 0 or less once it has ended, though others may hold its pipe: whatever
/// connects mpirun to a host that is cut off does so for minutes.
ssize_t ReadWhileRuns(pid_t child, int pipe, char* buffer, size_t size) {
  pollfd readable{.fd = pipe, .events = POLLIN, .revents = 0};
  for (bool ended = false;;) {
    const int ready = poll(&readable, 1, static_cast<int>(kEndInterval.count()));
    if (ready > 0) return read(pipe, buffer, size);
    if (ended) return 0;
    siginfo_t info{};
    waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOHANG | WNOWAIT);
    ended = info.si_pid == child;
  }
}

std::vector<std::string> EnvironmentWith(
    const std::vector<std::pair<std::string, std::string>>& added) {
  std::vector<std::string> all;
  for (char** entry = environ; *entry != nullptr; ++entry) all.emplace_back(*entry);
  for (const auto& [name, value] : added) all.push_back(fmt::format("{}={}", name, value));
  return all;
}

}  // namespace

std::string ReasonFromMpirun(const std::string& notices) {
  // mpirun wraps its sentences, so that a line may end anywhere.
  const std::string text = std::regex_replace(notices, std::regex("\\s+"), " ");
  std::smatch match;
  static const std::regex kSignal(
      "process rank (\\d+) with PID \\d+ on node (\\S+) exited on signal (\\d+) \\(([^)]*)\\)");
  if (std::regex_search(text, match, kSignal)) {
    return fmt::format("rank {} on host {} was ended by signal {} ({})", match[1].str(),
                       match[2].str(), match[3].str(), match[4].str());
  }
  static const std::regex kExit("Process name: \\[\\[\\d+,\\d+\\],(\\d+)\\] Exit code: (\\d+)");
  if (std::regex_search(text, match, kExit)) {
    return fmt::format("rank {} ended with exit status {}", match[1].str(), match[2].str());
  }
  return "";
}

absl::StatusOr<std::unique_ptr<MpiJob>> MpiJob::Start(
    const LaunchOptions& launch, const std::vector<std::string>& command,
    const std::vector<std::pair<std::string, std::string>>& environment, OnEnd on_end,
    JobOutput output) {
  if (!launch.hostfile.empty() && access(launch.hostfile.c_str(), R_OK) != 0) {
    return InvalidArgument("--hostfile {}: {}", launch.hostfile, ErrnoText(errno));
  }
  std::vector<std::string> arguments = MpirunArguments(launch, command, environment);
  std::vector<std::string> variables = EnvironmentWith(environment);
  const std::vector<char*> argument_pointers = Pointers(arguments);
  const std::vector<char*> variable_pointers = Pointers(variables);

  int errors[2];
  int exec_failed[2];
  if (pipe2(errors, O_CLOEXEC) != 0 || pipe2(exec_failed, O_CLOEXEC) != 0) {
    return Internal("cannot make a pipe: {}", ErrnoText(errno));
  }
  const pid_t pid = fork();
  if (pid < 0) return Internal("cannot start a process: {}", ErrnoText(errno));
  if (pid == 0) {
    BecomeMpirun(argument_pointers.data(), variable_pointers.data(), output, errors[1],
                 exec_failed[1]);
  }
  setpgid(pid, pid);
  close(errors[1]);
  close(exec_failed[1]);
  int error = 0;
  const ssize_t size = read(exec_failed[0], &error, sizeof(error));
  close(exec_failed[0]);
  if (size == sizeof(error)) {
    close(errors[0]);
    waitpid(pid, nullptr, 0);
    return FailedPrecondition(
        "mpirun cannot be started: {}; install it with: apt-get install "
        "openmpi-bin",
        ErrnoText(error));
  }
  return std::unique_ptr<MpiJob>(new MpiJob(pid, errors[0], std::move(on_end)));
}

MpiJob::MpiJob(pid_t pid, int error_pipe, OnEnd on_end) : pid_(pid), on_end_(std::move(on_end)) {
  thread_ = std::thread([this, error_pipe] { ReadErrors(error_pipe); });
}

MpiJob::~MpiJob() {
  Stop(std::chrono::milliseconds(0));
  thread_.join();
}

void MpiJob::ReadErrors(int error_pipe) {
  // mpirun frames its notices with lines of dashes.
  std::string notices;
  std::string line;
  bool in_notice = false;
  char buffer[4096];
  for (ssize_t size; (size = ReadWhileRuns(pid_, error_pipe, buffer, sizeof(buffer))) > 0;) {
    for (ssize_t i = 0; i < size; ++i) {
      if (buffer[i] != '\n') {
        line += buffer[i];
        continue;
      }
      if (line.starts_with("--------------------")) {
        in_notice = !in_notice;
      } else if (in_notice || line.starts_with("mpirun")) {
        notices += line + "\n";
      } else {
        line += '\n';
        [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
      }
      line.clear();
    }
  }
  close(error_pipe);

  int wait_status = 0;
  waitpid(pid_, &wait_status, 0);
  kill(-pid_, SIGKILL);
  absl::Status why;
  if (!WIFEXITED(wait_status) || WEXITSTATUS(wait_status) != 0) {
    std::string reason = ReasonFromMpirun(notices);
    if (reason.empty()) {
      reason = WIFEXITED(wait_status)
                   ? fmt::format("mpirun ended with exit status {}", WEXITSTATUS(wait_status))
                   : fmt::format("mpirun was ended by signal {}", WTERMSIG(wait_status));
      if (!notices.empty()) reason += ": " + notices.substr(0, notices.find('\n', 1));
    }
    why = Unavailable("{}", reason);
  }
  on_end_(why);
  const MutexLock lock(mutex_);
  ended_ = true;
}

bool MpiJob::WaitUntilEnded(std::chrono::milliseconds time) {
  const auto end = std::chrono::steady_clock::now() + time;
  while (true) {
    {
      const MutexLock lock(mutex_);
      if (ended_) return true;
    }
    if (std::chrono::steady_clock::now() >= end) return false;
    std::this_thread::sleep_for(kPollInterval);
  }
}

void MpiJob::Stop(std::chrono::milliseconds grace) {
  if (WaitUntilEnded(grace)) return;
  kill(pid_, SIGTERM);
  if (WaitUntilEnded(kTermination)) return;
  kill(-pid_, SIGKILL);
  WaitUntilEnded(kTermination);
}

}  // namespace tandem::launcher
