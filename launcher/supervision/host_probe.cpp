#include "launcher/supervision/host_probe.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utility>
#include <vector>

#include "launcher/job/job_hosts.h"
#include "launcher/option_tables/rank_command.h"

namespace tandem::launcher {

HostProbe::HostProbe(const LaunchOptions& launch, std::string host) : host_(std::move(host)) {
  std::vector<std::string> words = CommandOfThisProgram("reach", {});
  words.push_back(RemoteShellOf(launch));
  words.insert(words.end(), {host_, "true"});
  const std::vector<char*> arguments = Pointers(words);
  const int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
  pid_ = fork();
  if (pid_ == 0) {
    // Only what is safe between fork and exec.
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    sigset_t none;
    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, &none, nullptr);
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) dup2(nothing, fd);
    execv(arguments[0], arguments.data());
    _exit(kExitFailed);
  }
  if (nothing >= 0) close(nothing);
}

HostProbe::~HostProbe() {
  if (pid_ <= 0) return;
  kill(pid_, SIGTERM);
  waitpid(pid_, nullptr, 0);
}

std::optional<bool> HostProbe::Reached() {
  if (pid_ <= 0) return false;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) == 0) return std::nullopt;
  pid_ = -1;
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace tandem::launcher
