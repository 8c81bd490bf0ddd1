#include "launcher/job/job_hosts.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <string_view>
#include <utility>

#include "core/base/errno_text.h"
#include "core/system/text_file.h"
#include "launcher/options/rank_command.h"
#include "parallel/communicators/communicator.h"
#include "parallel/communicators/mpi_communicator.h"
#include "parallel/control/control_address.h"

namespace tandem::launcher {
namespace {

constexpr auto kPatience = std::chrono::seconds(12);
constexpr const char* kConnectTimeout = "ConnectTimeout=10";  // of ssh, seconds
constexpr std::string_view kUnreached = "tandem: cannot reach host ";
constexpr std::string_view kSilent = "tandem: host ";
constexpr const char* kDefaultHostfile = "/etc/openmpi/openmpi-default-hostfile";

/// The first words of a text's lines, without comments; none of a text that cannot be read.
std::vector<std::string> FirstWords(const absl::StatusOr<std::string>& text) {
  std::vector<std::string> words;
  std::istringstream lines(text.value_or(""));
  for (std::string line; std::getline(lines, line);) {
    std::istringstream in(line.substr(0, line.find('#')));
    if (std::string word; in >> word) words.push_back(word);
  }
  return words;
}

bool IsThisHost(const std::string& name) {
  if (name == "localhost" || name == "127.0.0.1" || name == "::1") return true;
  if (name == parallel::HostName()) return true;
  const auto own = parallel::ListNetworkAddresses();
  return std::any_of(own.begin(), own.end(),
                     [&](const parallel::NetworkAddress& one) { return one.text == name; });
}

/// Whether Open MPI's settings files, which our variables would overrule, name a parameter.
bool SettingsName(std::string_view parameter) {
  const char* home = std::getenv("HOME");
  for (const std::string& path : {std::string("/etc/openmpi/openmpi-mca-params.conf"),
                                  std::string(home ? home : "") + "/.openmpi/mca-params.conf"}) {
    for (const std::string& word : FirstWords(ReadTextFile(path))) {
      if (word.find(parameter) != std::string::npos) return true;
    }
  }
  return false;
}

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

/// What `tandem reach` starts: the leader of a process group, which dies with this process.
class AgentProcess {
 public:
  explicit AgentProcess(std::vector<std::string>& words) {
    const std::vector<char*> arguments = Pointers(words);
    std::array<int, 2> errors{};
    if (pipe(errors.data()) != 0) return;
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
      close(errors[0]);
      close(errors[1]);
      execvp(arguments[0], arguments.data());
      dprintf(STDERR_FILENO, "%s: %s\n", arguments[0], ErrnoText(errno).c_str());
      _exit(kExitFailed);
    }
    if (pid_ > 0) setpgid(pid_, pid_);
    close(errors[1]);
    errors_ = errors[0];
  }
  ~AgentProcess() {
    if (errors_ >= 0) close(errors_);
  }
  AgentProcess(const AgentProcess&) = delete;
  AgentProcess& operator=(const AgentProcess&) = delete;

  pid_t pid() const { return pid_; }
  /// What it writes to standard error; below 0 once that has ended.
  int errors() const { return errors_; }
  const std::string& said() const { return said_; }
  /// As of waitpid, once it has ended.
  int status() const { return status_; }

  /// Reads what is there of standard error, once.
  void Read() {
    std::array<char, 4096> buffer{};
    const ssize_t size = read(errors_, buffer.data(), buffer.size());
    if (size > 0) {
      said_.append(buffer.data(), static_cast<size_t>(size));
    } else {
      close(std::exchange(errors_, -1));
    }
  }

  /// Whether it has ended; its last words are read then. What it has started on this host may hold
  /// its pipe for longer.
  bool Ended() {
    if (waitpid(pid_, &status_, WNOHANG) != pid_) return false;
    pollfd readable{.fd = errors_, .events = POLLIN, .revents = 0};
    while (errors_ >= 0 && poll(&readable, 1, 0) > 0) {
      Read();
      readable.fd = errors_;
    }
    return true;
  }

  /// Ends it, and all in its process group.
  void Kill() const { kill(-pid_, SIGKILL); }

 private:
  pid_t pid_ = -1;
  int errors_ = -1;
  int status_ = 0;
  std::string said_;
};

}  // namespace

absl::Status CheckLaunch(const ModelOptions& model, const LaunchOptions& launch) {
  const bool started = parallel::StartedByMpi();
  for (const char* flag : {"--hostfile", "--mpirun-arguments", "--control-interface"}) {
    if (!model.sources.Given(flag)) continue;
    if (!started && launch.ranks <= 1) {
      return InvalidArgument("{}: it is for several ranks, and there is one: give -n", flag);
    }
    if (started && flag != std::string_view("--control-interface")) {
      return InvalidArgument("{}: mpirun has started the ranks already; give it to mpirun", flag);
    }
  }
  if (started || launch.ranks <= 1) return absl::OkStatus();
  if (launch.mpirun_arguments.find_first_of("'\"") != std::string::npos) {
    return InvalidArgument(
        "--mpirun-arguments: it is split at blanks alone, and has a quote, which would be part of "
        "an argument; leave quotes out, and put arguments with blanks into Open MPI's settings");
  }
  if (!launch.hostfile.empty()) {
    struct stat facts {};
    const char* path = launch.hostfile.c_str();
    if (stat(path, &facts) != 0 || (S_ISREG(facts.st_mode) && access(path, R_OK) != 0)) {
      return InvalidArgument("--hostfile {}: {}", launch.hostfile, ErrnoText(errno));
    }
    if (!S_ISREG(facts.st_mode)) {
      return InvalidArgument("--hostfile {}: it is no regular file", launch.hostfile);
    }
  }
  return CheckControlInterface(model);
}

absl::Status CheckControlInterface(const ModelOptions& model) {
  const std::string& wanted = model.control_interface;
  if (wanted.empty()) return absl::OkStatus();
  const auto found = parallel::ChooseControlAddresses(wanted, parallel::ListNetworkAddresses(), {});
  if (found.ok()) return absl::OkStatus();
  return InvalidArgument("--control-interface {}: {}", wanted, Message(found.status()));
}

bool StaysOnThisHost(const LaunchOptions& launch) {
  for (const char* name :
       {"SLURM_JOB_ID", "SLURM_JOBID", "PBS_JOBID", "LSB_JOBID", "PE_HOSTFILE",
        "LOADL_PROCESSOR_LIST", "OMPI_MCA_orte_default_hostfile", "OMPI_MCA_plm"}) {
    if (std::getenv(name) != nullptr) return false;
  }
  std::istringstream words(launch.mpirun_arguments);
  for (std::string word; words >> word;) {
    if (word == "-H" || word == "plm" || word.find("host") != std::string::npos ||
        word.find("machinefile") != std::string::npos ||
        word.find("rankfile") != std::string::npos) {
      return false;
    }
  }
  const std::vector<std::string> hosts =
      FirstWords(ReadTextFile(launch.hostfile.empty() ? kDefaultHostfile : launch.hostfile));
  return std::all_of(hosts.begin(), hosts.end(), IsThisHost);
}

std::vector<std::string> OtherHosts(const LaunchOptions& launch) {
  std::vector<std::string> hosts =
      FirstWords(ReadTextFile(launch.hostfile.empty() ? kDefaultHostfile : launch.hostfile));
  std::erase_if(hosts, IsThisHost);
  return hosts;
}

bool KeepsWholeNames(const std::vector<std::string>& arguments) {
  constexpr std::string_view kParameter = "orte_keep_fqdn_hostnames";
  return std::getenv("OMPI_MCA_orte_keep_fqdn_hostnames") != nullptr ||
         std::find(arguments.begin(), arguments.end(), kParameter) != arguments.end() ||
         SettingsName(kParameter);
}

std::string ReachThroughThisProgram(std::vector<std::string>& arguments) {
  const std::string program = CommandOfThisProgram("reach", {}).front();
  // mpirun takes blanks and colons for its own.
  const auto is_one_word = [](const std::string& text) {
    return text.find_first_of(" :") == std::string::npos;
  };
  if (!is_one_word(program)) return "";
  const auto through_us = [&](const std::string& agent) {
    return is_one_word(agent) ? program + " reach " + agent : agent;
  };
  bool named = false;
  for (size_t i = 1; i + 1 < arguments.size(); ++i) {
    const bool parameter = arguments[i - 1] == "--mca" || arguments[i - 1] == "-mca";
    if (!parameter || arguments[i].find("rsh_agent") == std::string::npos) continue;
    arguments[i + 1] = through_us(arguments[i + 1]);
    named = true;
  }
  if (named) return "";
  const char* agent = std::getenv("OMPI_MCA_plm_rsh_agent");
  if (agent != nullptr) return through_us(agent);
  return SettingsName("rsh_agent") ? "" : through_us("ssh");
}

int ReachHost(std::vector<std::string> words) {
  if (words.size() < 2) {
    std::fprintf(stderr, "usage: tandem reach AGENT HOST COMMAND...\n");
    return kExitUsage;
  }
  const std::string agent = words[0];
  const std::string host = words[1];
  if (IsSsh(agent)) {
    words.insert(words.begin() + 1, {"-x", "-o", "BatchMode=yes", "-o", kConnectTimeout});
  }
  // When mpirun dies, this is told, and so the agent ends with all that it has started here: one
  // that waits for a host that does not answer would stay for minutes. What kills mpirun's group
  // must leave this alone until then.
  setpgid(0, 0);
  const int told = EndsToBeTold();
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  AgentProcess process(words);
  if (told < 0 || process.pid() < 0) return kExitFailed;
  const auto late = std::chrono::steady_clock::now() + kPatience;
  bool silent = false;
  while (!process.Ended()) {
    pollfd ready[] = {{.fd = process.errors(), .events = POLLIN, .revents = 0},
                      {.fd = told, .events = POLLIN, .revents = 0}};
    poll(ready, 2, 100);
    if (ready[1].revents != 0) {
      process.Kill();
      return kExitFailed;
    }
    if (ready[0].revents != 0) process.Read();
    if (silent || std::chrono::steady_clock::now() < late) continue;
    std::fprintf(stderr, "%s%s has not answered for %d s; %s still tries\n",
                 std::string(kSilent).c_str(), host.c_str(), static_cast<int>(kPatience.count()),
                 agent.c_str());
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
  return line.starts_with(kUnreached) || line.starts_with(kSilent);
}

}  // namespace tandem::launcher
