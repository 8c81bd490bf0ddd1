#include "launcher/job/reach_host.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <sstream>
#include <string_view>
#include <utility>

#include "core/base/errno_text.h"
#include "fmt/format.h"
#include "launcher/option_tables/rank_command.h"

namespace tandem::launcher {
namespace {

constexpr auto kPatience = std::chrono::seconds(12);
constexpr const char* kConnectTimeout = "ConnectTimeout=10";  // of ssh, seconds
constexpr std::string_view kUnreached = "tandem: cannot reach host ";
constexpr std::string_view kSilent = "tandem: host ";
constexpr std::string_view kFor = " has not answered for ";
// The host's shell says it before it does what mpirun asks for. The agent goes on for as long as
// the job does, so its end would be no sign of that.
constexpr std::string_view kAnswer = "tandem-answers\n";

bool IsSsh(const std::string& agent) {
  return std::filesystem::path(agent).filename().string() == "ssh";
}

/// The last line that has words.
std::string LastLine(const std::string& text) {
  std::istringstream lines(text);
  std::string last;
  for (std::string line; std::getline(lines, line);) {
    while (!line.empty() && std::isspace(static_cast<unsigned char>(line.back())) != 0) {
      line.pop_back();
    }
    if (std::any_of(line.begin(), line.end(),
                    [](unsigned char c) { return std::isalpha(c) != 0; })) {
      last = line;
    }
  }
  return last;
}

/// A descriptor that can be read once this process is told to end; below 0: there is none.
int EndsToBeTold() {
  sigset_t ends;
  sigemptyset(&ends);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGQUIT}) sigaddset(&ends, signal);
  pthread_sigmask(SIG_BLOCK, &ends, nullptr);
  return signalfd(-1, &ends, SFD_CLOEXEC);
}

/// Reads once, if there is something to read or an end, which closes the pipe.
std::string ReadOnce(int& pipe) {
  std::array<char, 4096> buffer{};
  const ssize_t size = read(pipe, buffer.data(), buffer.size());
  if (size > 0) return {buffer.data(), static_cast<size_t>(size)};
  close(std::exchange(pipe, -1));
  return "";
}

void WriteOut(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(STDOUT_FILENO, text.data(), text.size());
    if (written <= 0) return;
    text.remove_prefix(static_cast<size_t>(written));
  }
}

/// The agent, as a process: the leader of a process group, which dies with this process.
class RemoteShell {
 public:
  explicit RemoteShell(std::vector<std::string>& words) {
    const std::vector<char*> arguments = Pointers(words);
    std::array<int, 2> errors{};
    std::array<int, 2> output{};
    if (pipe2(errors.data(), O_CLOEXEC) != 0 || pipe2(output.data(), O_CLOEXEC) != 0) return;
    const pid_t parent = getpid();
    pid_ = fork();
    if (pid_ == 0) {
      setpgid(0, 0);
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != parent) _exit(kExitFailed);
      sigset_t none;
      sigemptyset(&none);
      pthread_sigmask(SIG_SETMASK, &none, nullptr);
      dup2(errors[1], STDERR_FILENO);
      dup2(output[1], STDOUT_FILENO);
      execvp(arguments[0], arguments.data());
      dprintf(STDERR_FILENO, "%s: %s\n", arguments[0], ErrnoText(errno).c_str());
      _exit(kExitFailed);
    }
    if (pid_ > 0) setpgid(pid_, pid_);
    close(errors[1]);
    close(output[1]);
    errors_ = errors[0];
    output_ = output[0];
  }
  ~RemoteShell() {
    if (errors_ >= 0) close(errors_);
    if (output_ >= 0) close(output_);
  }
  RemoteShell(const RemoteShell&) = delete;
  RemoteShell& operator=(const RemoteShell&) = delete;

  pid_t pid() const { return pid_; }
  /// What it has written to standard error.
  const std::string& said() const { return said_; }
  /// Whether the shell of the host has begun.
  bool answered() const { return answered_; }
  /// As of waitpid, once it has ended.
  int status() const { return status_; }

  /// Waits until it writes, or `other` can be read, at most `time`, and takes what there is.
  /// Standard output goes on to ours. Returns whether `other` can be read.
  bool Read(int other, std::chrono::milliseconds time) {
    std::array<pollfd, 3> ready = {pollfd{.fd = errors_, .events = POLLIN, .revents = 0},
                                   pollfd{.fd = output_, .events = POLLIN, .revents = 0},
                                   pollfd{.fd = other, .events = POLLIN, .revents = 0}};
    poll(ready.data(), ready.size(), static_cast<int>(time.count()));
    if (ready[0].revents != 0) said_ += ReadOnce(errors_);
    if (ready[1].revents != 0) TakeOutput(ReadOnce(output_));
    more_ = ready[0].revents != 0 || ready[1].revents != 0;
    return ready[2].revents != 0;
  }

  /// Whether it has ended; its last words are read then. What it has started on this host may hold
  /// its pipes for longer.
  bool Ended() {
    if (waitpid(pid_, &status_, WNOHANG) != pid_) return false;
    do {
      Read(-1, std::chrono::milliseconds(0));
    } while (more_);
    WriteOut(begun_);
    return true;
  }

  /// Ends it, and all in its process group.
  void Kill() const { kill(-pid_, SIGKILL); }

 private:
  void TakeOutput(const std::string& text) {
    begun_ += text;
    for (size_t end; !answered_ && (end = begun_.find('\n')) != std::string::npos;) {
      answered_ = begun_.substr(0, end + 1) == kAnswer;
      if (!answered_) WriteOut(begun_.substr(0, end + 1));  // as shells greet
      begun_.erase(0, end + 1);
    }
    if (answered_) WriteOut(std::exchange(begun_, {}));
  }

  pid_t pid_ = -1;
  int errors_ = -1;
  int output_ = -1;
  int status_ = 0;
  bool more_ = false;  // may be there
  bool answered_ = false;
  std::string said_;
  std::string begun_;  // a line of standard output
};

}  // namespace

int ReachHost(std::vector<std::string> words) {
  if (words.size() < 2) {
    std::fprintf(stderr, "usage: tandem reach AGENT HOST COMMAND...\n");
    return kExitUsage;
  }
  const std::string agent = words[0];
  const std::string host = words[1];
  if (words.size() > 2) {
    words[2] = fmt::format("echo {}; {}", kAnswer.substr(0, kAnswer.size() - 1), words[2]);
  }
  if (IsSsh(agent)) {
    words.insert(words.begin() + 1, {"-x", "-o", "BatchMode=yes", "-o", kConnectTimeout});
  }
  // When mpirun dies, this is told, and so the agent ends with all that it has started here: one
  // that waits for a host that does not answer would stay for minutes. What kills mpirun's group
  // must leave this alone until then.
  setpgid(0, 0);
  const int told = EndsToBeTold();
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  RemoteShell process(words);
  if (told < 0 || process.pid() < 0) return kExitFailed;
  const auto late = std::chrono::steady_clock::now() + kPatience;
  bool silent = false;
  while (!process.Ended()) {
    if (process.Read(told, std::chrono::milliseconds(100))) {
      process.Kill();
      return kExitFailed;
    }
    if (silent || process.answered() || std::chrono::steady_clock::now() < late) continue;
    std::fputs(
        fmt::format("{}{}{}{} s; {} still tries\n", kSilent, host, kFor, kPatience.count(), agent)
            .c_str(),
        stderr);
    silent = true;
  }
  const int status = process.status();
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
    std::fputs(process.said().c_str(), stderr);
    return kExitDone;
  }
  process.Kill();
  std::string why = LastLine(process.said());
  if (why.empty()) {
    why = WIFEXITED(status)
              ? fmt::format("{} ended with exit status {}", agent, WEXITSTATUS(status))
              : fmt::format("{} was ended by signal {}", agent, WTERMSIG(status));
  }
  std::fprintf(stderr, "%s%s: %s\n", std::string(kUnreached).c_str(), host.c_str(), why.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : kExitFailed;
}

std::string UnreachedHost(const std::string& line) {
  return line.starts_with(kUnreached) ? line.substr(kUnreached.size()) : "";
}

bool TellsOfHost(const std::string& line) {
  return line.starts_with(kUnreached) ||
         (line.starts_with(kSilent) && line.find(kFor) != std::string::npos);
}

}  // namespace tandem::launcher
