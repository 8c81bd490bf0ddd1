#include "launcher/job/job_hosts.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
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

#include "core/base/errno_text.h"
#include "core/system/text_file.h"
#include "launcher/options/rank_command.h"
#include "parallel/communicators/communicator.h"
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

/// Whether Open MPI's settings files, which our variables would overrule, name a remote shell.
bool SettingsNameAnAgent() {
  const char* home = std::getenv("HOME");
  for (const std::string& path : {std::string("/etc/openmpi/openmpi-mca-params.conf"),
                                  std::string(home ? home : "") + "/.openmpi/mca-params.conf"}) {
    for (const std::string& word : FirstWords(ReadTextFile(path))) {
      if (word.find("rsh_agent") != std::string::npos) return true;
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

}  // namespace

absl::StatusOr<bool> StaysOnThisHost(const LaunchOptions& launch) {
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
  auto text = ReadTextFile(launch.hostfile.empty() ? kDefaultHostfile : launch.hostfile);
  if (!launch.hostfile.empty()) {
    if (!text.ok()) return InvalidArgument("--hostfile {}", Message(text.status()));
    // mpirun reads it after this.
    if (std::error_code error; !std::filesystem::is_regular_file(launch.hostfile, error)) {
      return InvalidArgument("--hostfile {}: it is no regular file; it is read several times",
                             launch.hostfile);
    }
  }
  const std::vector<std::string> hosts = FirstWords(text);
  return std::all_of(hosts.begin(), hosts.end(), IsThisHost);
}

std::vector<std::string> OtherHosts(const LaunchOptions& launch) {
  std::vector<std::string> hosts =
      FirstWords(ReadTextFile(launch.hostfile.empty() ? kDefaultHostfile : launch.hostfile));
  std::erase_if(hosts, IsThisHost);
  return hosts;
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
  return SettingsNameAnAgent() ? "" : through_us("ssh");
}

int ReachHost(std::vector<std::string> words) {
  // When mpirun dies, so does this, and so does the agent: one that waits for a host that does not
  // answer would stay for minutes.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (words.size() < 2) {
    std::fprintf(stderr, "usage: tandem reach AGENT HOST COMMAND...\n");
    return kExitUsage;
  }
  const std::string agent = words[0];
  const std::string host = words[1];
  if (IsSsh(agent)) {
    words.insert(words.begin() + 1, {"-x", "-o", "BatchMode=yes", "-o", kConnectTimeout});
  }
  const std::vector<char*> arguments = Pointers(words);
  std::array<int, 2> errors{};
  if (pipe(errors.data()) != 0) return kExitFailed;
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) return kExitFailed;
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(kExitFailed);
    dup2(errors[1], STDERR_FILENO);
    close(errors[0]);
    close(errors[1]);
    execvp(arguments[0], arguments.data());
    dprintf(STDERR_FILENO, "%s: %s\n", agent.c_str(), ErrnoText(errno).c_str());
    _exit(kExitFailed);
  }
  close(errors[1]);
  std::string said;
  const auto late = std::chrono::steady_clock::now() + kPatience;
  bool told = false;
  int status = 0;
  // What the agent has started on this host may hold its pipe for longer than it lives.
  for (bool ended = false; !ended;) {
    ended = waitpid(child, &status, WNOHANG) == child;
    pollfd readable{.fd = errors[0], .events = POLLIN, .revents = 0};
    while (poll(&readable, 1, ended ? 0 : 100) > 0) {
      std::array<char, 4096> buffer{};
      const ssize_t size = read(errors[0], buffer.data(), buffer.size());
      if (size <= 0) {
        if (!ended) ended = waitpid(child, &status, 0) == child;
        break;
      }
      said.append(buffer.data(), static_cast<size_t>(size));
    }
    if (ended || told || std::chrono::steady_clock::now() < late) continue;
    std::fprintf(stderr, "%s%s has not answered for %d s; %s still tries\n",
                 std::string(kSilent).c_str(), host.c_str(), static_cast<int>(kPatience.count()),
                 agent.c_str());
    told = true;
  }
  const bool done = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  if (done) {
    std::fputs(said.c_str(), stderr);
    return kExitDone;
  }
  std::string why = LastLine(said);
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
