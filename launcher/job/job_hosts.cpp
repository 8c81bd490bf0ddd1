#include "launcher/job/job_hosts.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <sstream>
#include <string_view>

#include "core/base/errno_text.h"
#include "core/system/file_kind.h"
#include "core/system/host_name.h"
#include "core/system/text_file.h"
#include "launcher/option_tables/rank_command.h"
#include "parallel/communicators/communicator.h"
#include "parallel/communicators/mpi_communicator.h"
#include "parallel/control/control_address.h"

namespace tandem::launcher {
namespace {

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
  if (name == core::HostName()) return true;
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
      return InvalidArgument("--hostfile {}: it is {}, and no file", launch.hostfile,
                             FileKindText(facts.st_mode));
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

std::string RemoteShellOf(const LaunchOptions& launch) {
  std::istringstream words(launch.mpirun_arguments);
  bool names = false;
  for (std::string word; words >> word;) {
    if (names) return word;
    names = word.find("rsh_agent") != std::string::npos;
  }
  const char* agent = std::getenv("OMPI_MCA_plm_rsh_agent");
  return agent != nullptr ? agent : "ssh";
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

}  // namespace tandem::launcher
