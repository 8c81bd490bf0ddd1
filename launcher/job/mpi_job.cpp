#include "launcher/job/mpi_job.h"

#include <fcntl.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" {  // glibc 2.36 forgets it
#include <sys/pidfd.h>
}

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <optional>
#include <regex>
#include <sstream>
#include <string_view>
#include <utility>

#include "core/base/errno_text.h"
#include "core/system/host_name.h"
#include "launcher/job/job_hosts.h"
#include "launcher/job/job_lines.h"
#include "launcher/job/loopback_preload.h"
#include "launcher/job/reach_host.h"
#include "launcher/option_tables/rank_command.h"
#include "launcher/options/reported.h"

namespace tandem::launcher {
namespace {

constexpr auto kPollInterval = std::chrono::milliseconds(20);
constexpr auto kEndInterval = std::chrono::milliseconds(200);
constexpr auto kCallBack = std::chrono::seconds(14);
constexpr auto kMostPatience = std::chrono::seconds(60);  // for the first rank to start
constexpr auto kLastWords = std::chrono::milliseconds(1000);
constexpr auto kTermination = std::chrono::milliseconds(6000);
constexpr auto kDeath = std::chrono::milliseconds(1000);  // of what was killed
constexpr int64_t kSessionBytes = int64_t{16} << 20;      // more than mpirun writes for its ranks
constexpr auto kRanksFirst = std::chrono::seconds(5);     // which may see more than this process
constexpr std::string_view kIfSlow =
    "; look after that host and its disk, or give --collective-timeout more seconds";

/// Variables in place of those of this process that have the same names.
using Variables = std::vector<std::pair<std::string, std::string>>;

std::vector<std::string> MpirunArguments(const LaunchOptions& launch,
                                         const std::vector<std::string>& command,
                                         const std::vector<std::string>& further) {
  std::vector<std::string> arguments = {"mpirun"};
  if (geteuid() == 0) arguments.push_back("--allow-run-as-root");
  for (const char* flag : {"--oversubscribe", "--bind-to", "none", "-n"}) arguments.push_back(flag);
  arguments.push_back(fmt::format("{}", launch.ranks));
  if (!launch.hostfile.empty()) {
    arguments.push_back("--hostfile");
    arguments.push_back(launch.hostfile);
  }
  arguments.insert(arguments.end(), further.begin(), further.end());
  arguments.insert(arguments.end(), command.begin(), command.end());
  if (!launch.log_level.empty()) {
    arguments.push_back("--log-level");
    arguments.push_back(launch.log_level);
  }
  return arguments;
}

/// Never returns, and calls only what is safe between fork and exec.
[[noreturn]] void BecomeMpirun(char* const* arguments, char* const* environment, int output,
                               int input_pipe, int error_pipe, int exec_failed_pipe) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  sigset_t none;
  sigemptyset(&none);
  pthread_sigmask(SIG_SETMASK, &none, nullptr);
  dup2(input_pipe, STDIN_FILENO);
  dup2(output == kToStandardError ? error_pipe : output, STDOUT_FILENO);
  dup2(error_pipe, STDERR_FILENO);
  execvpe("mpirun", arguments, environment);
  const int error = errno;
  [[maybe_unused]] const ssize_t written = write(exec_failed_pipe, &error, sizeof(error));
  _exit(127);
}

/// What a child has written; 0 or less once it has ended, though others may hold its pipe: whatever
/// connects mpirun to a host that is cut off does so for minutes. `look` is called at every turn.
ssize_t ReadWhileRuns(pid_t child, int pipe, char* buffer, size_t size,
                      const std::function<void()>& look) {
  pollfd readable{.fd = pipe, .events = POLLIN, .revents = 0};
  for (bool ended = false;;) {
    const int ready = poll(&readable, 1, static_cast<int>(kEndInterval.count()));
    look();
    if (ready > 0) return read(pipe, buffer, size);
    if (ended) return 0;
    siginfo_t info{};
    waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOHANG | WNOWAIT);
    ended = info.si_pid == child;
  }
}

std::vector<std::string> EnvironmentWith(const Variables& added) {
  std::vector<std::string> all;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view variable = *entry;
    const bool replaced = std::any_of(added.begin(), added.end(), [&](const auto& one) {
      return variable.starts_with(one.first + "=");
    });
    if (!replaced) all.emplace_back(variable);
  }
  for (const auto& [name, value] : added) all.push_back(fmt::format("{}={}", name, value));
  return all;
}

/// A pipe from which `input` can be read, and then its end.
absl::StatusOr<int> PipeWith(const std::string& input) {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return Internal("no pipe: {}", ErrnoText(errno));
  const ssize_t written = write(ends[1], input.data(), input.size());  // less than a pipe takes
  close(ends[1]);
  if (written == static_cast<ssize_t>(input.size())) return ends[0];
  close(ends[0]);
  return Internal("cannot write to a pipe");
}

/// The file in which what mpirun said is kept; empty, and the log has it, if it cannot be.
std::string KeepNotices(const std::string& notices) {
  std::string path = TemporaryPlace() + "/tandem-mpirun-XXXXXX.log";
  const int file = mkstemps(path.data(), 4);
  const bool kept = file >= 0 && write(file, notices.data(), notices.size()) ==
                                     static_cast<ssize_t>(notices.size());
  if (file >= 0) close(file);
  if (kept) return path;
  if (file >= 0) unlink(path.c_str());
  spdlog::warn("mpirun said:\n{}", notices);
  return "";
}

}  // namespace

absl::StatusOr<std::unique_ptr<MpiJob>> MpiJob::Start(const MpiJobOrder& order, OnEnd on_end,
                                                      CleanupSignals* signals) {
  if (signals == nullptr) return Launch(order, std::move(on_end));
  absl::StatusOr<std::unique_ptr<MpiJob>> job;
  CleanupSignals::Registration cleanup = signals->Around([&]() -> std::function<void()> {
    job = Launch(order, std::move(on_end));
    if (!job.ok()) return [] {};
    return [started = job->get()] { started->CleanUp(); };
  });
  if (job.ok()) (*job)->cleanup_ = std::move(cleanup);
  return job;
}

absl::StatusOr<std::unique_ptr<MpiJob>> MpiJob::Launch(const MpiJobOrder& order, OnEnd on_end) {
  const LaunchOptions& launch = order.launch;
  const bool stays = StaysOnThisHost(launch);
  TANDEM_ASSIGN_OR_RETURN(
      TemporaryFolder folder,
      TemporaryFolder::Make("job", {TemporaryPlace(), "/dev/shm"}, kSessionBytes));
  Variables added = {{parallel::kStartVariable, "1"}};
  std::istringstream words(launch.mpirun_arguments);
  std::vector<std::string> further(std::istream_iterator<std::string>(words), {});
  std::optional<LoopbackPreload> preload;
  std::optional<std::string> waits_for;
  if (stays) {
    TANDEM_ASSIGN_OR_RETURN(LoopbackPreload made, LoopbackPreload::Make());
    preload.emplace(std::move(made));
    added.emplace_back("OMPI_MCA_orte_tmpdir_base", folder.path());
    // Else mpirun looks for ssh, and does nothing without.
    added.emplace_back("OMPI_MCA_plm", "isolated");
    const char* others = std::getenv("LD_PRELOAD");
    added.emplace_back("LD_PRELOAD",
                       preload->path() + (others != nullptr ? fmt::format(":{}", others) : ""));
  } else {
    waits_for = fmt::format("{}", fmt::join(OtherHosts(launch), ", "));
    if (waits_for->empty()) waits_for = "other hosts";
    further.insert(further.end(), {"-x", parallel::kStartVariable});
    // Orteds of other hosts would make the folder there, and leave it.
    added.emplace_back(kLocalFolderVariable, folder.path());
    if (!KeepsWholeNames(further)) added.emplace_back("OMPI_MCA_orte_keep_fqdn_hostnames", "1");
    std::string agent = ReachThroughThisProgram(further);
    if (!agent.empty()) added.emplace_back("OMPI_MCA_plm_rsh_agent", std::move(agent));
  }
  std::vector<std::string> arguments = MpirunArguments(launch, order.command, further);
  std::vector<std::string> variables = EnvironmentWith(added);
  const std::vector<char*> argument_pointers = Pointers(arguments);
  const std::vector<char*> variable_pointers = Pointers(variables);
  TANDEM_ASSIGN_OR_RETURN(const int input_pipe, PipeWith(order.input));

  int errors[2];
  int exec_failed[2];
  if (pipe2(errors, O_CLOEXEC) != 0 || pipe2(exec_failed, O_CLOEXEC) != 0) {
    close(input_pipe);
    return Internal("cannot make a pipe: {}", ErrnoText(errno));
  }
  const pid_t pid = fork();
  if (pid < 0) return Internal("cannot start a process: {}", ErrnoText(errno));
  if (pid == 0) {
    fcntl(folder.fd(), F_SETFD, 0);  // mpirun keeps the folder, too
    BecomeMpirun(argument_pointers.data(), variable_pointers.data(), order.output, input_pipe,
                 errors[1], exec_failed[1]);
  }
  setpgid(pid, pid);
  close(input_pipe);
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
  return std::unique_ptr<MpiJob>(new MpiJob(order, pid, errors[0], std::move(folder),
                                            std::move(waits_for), std::move(on_end)));
}

MpiJob::MpiJob(const MpiJobOrder& order, pid_t pid, int error_pipe, TemporaryFolder folder,
               std::optional<std::string> waits_for, OnEnd on_end)
    : ranks_(order.launch.ranks),
      patience_(order.patience),
      pid_(pid),
      folder_(std::move(folder)),
      waits_for_(std::move(waits_for)),
      on_end_(std::move(on_end)),
      on_unreached_(order.on_unreached) {
  thread_ = std::thread([this, error_pipe] { ReadErrors(error_pipe); });
}

MpiJob::~MpiJob() {
  cleanup_ = {};
  // Nobody asked it to end: something has failed, and mpirun, given time, says what.
  End(kLastWords);
  thread_.join();
  RemoveWhatRanksLeft();
  const MutexLock lock(mutex_);
  for (const auto& [rank, process] : local_ranks_) close(process);
  if (!notices_file_.empty()) unlink(notices_file_.c_str());
}

/// Looks after the start of a job, and gives it up where it stands still.
class MpiJob::Overseer {
 public:
  Overseer(MpiJob& job, JobLines& lines) : job_(job), lines_(lines) {}

  /// Every now and then.
  void Look() {
    const auto now = Clock::now();
    lines_.starts().Pass(now - last_);
    last_ = now;
    job_.Meet(lines_.starts());
    if (!reason_.empty()) {
      if (now - given_up_ >= kTermination) kill(-job_.pid_, SIGKILL);
      return;
    }
    if (lines_.starts().ready()) {
      const MutexLock lock(job_.mutex_);
      job_.ready_ = true;
    } else if (job_.waits_for_ && !lines_.starts().heard()) {
      LookForHosts(now - begin_);
    } else {
      const auto patience = job_.patience_ + kRanksFirst;
      const std::vector<int> silent =
          lines_.starts().Silent(patience, std::max<Clock::duration>(patience, kMostPatience));
      if (!silent.empty()) GiveUp(lines_.starts().Describe(silent) + std::string(kIfSlow));
    }
  }
  /// Why it was given up; empty if it was not.
  const std::string& reason() const { return reason_; }

 private:
  using Clock = std::chrono::steady_clock;

  void LookForHosts(Clock::duration waited) {
    if (waited >= kMostPatience) {
      GiveUp(fmt::format(
          "no rank has started within {} s: mpirun waited for {}; mend what keeps it from starting "
          "tandem there and hearing from it, or take it out of the list of hosts",
          kMostPatience.count(), *job_.waits_for_));
    }
    if (warned_ || lines_.told() || waited < kCallBack) return;
    warned_ = true;
    spdlog::warn(
        "no rank has started for {} s: mpirun waits for {} to call back, which must be able to "
        "open TCP connections to this host; if it has several networks, or a firewall, say which "
        "one to use: --mpirun-arguments=\"--mca oob_tcp_if_include NAME\"",
        kCallBack.count(), *job_.waits_for_);
  }
  void GiveUp(std::string reason) {
    reason_ = lines_.names_hosts() ? lines_.Reason() : std::move(reason);
    given_up_ = Clock::now();
    job_.on_end_(Unavailable("{}", reason_));  // before mpirun has stopped ranks go on once more
    kill(job_.pid_, SIGTERM);
  }

  MpiJob& job_;
  JobLines& lines_;
  const Clock::time_point begin_ = Clock::now();
  Clock::time_point last_ = begin_;
  Clock::time_point given_up_;
  bool warned_ = false;
  std::string reason_;
};

void MpiJob::ReadErrors(int error_pipe) {
  JobLines lines(ranks_, waits_for_.has_value());
  Overseer overseer(*this, lines);
  std::string line;
  char buffer[4096];
  const auto look = [&] { overseer.Look(); };
  for (ssize_t size; (size = ReadWhileRuns(pid_, error_pipe, buffer, sizeof(buffer), look)) > 0;) {
    for (ssize_t i = 0; i < size; ++i) {
      line += buffer[i];
      if (buffer[i] != '\n') continue;
      const std::string shown = lines.Take(std::exchange(line, {}));
      [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, shown.data(), shown.size());
    }
  }
  close(error_pipe);

  if (on_unreached_) {
    for (const std::string& host : lines.unreached()) on_unreached_(host);
  }
  int wait_status = 0;
  waitpid(pid_, &wait_status, 0);
  kill(-pid_, SIGKILL);
  absl::Status why;
  std::string file;
  if (!WIFEXITED(wait_status) || WEXITSTATUS(wait_status) != 0) {
    const std::string& notices = lines.notices();
    std::string reason = lines.Reason();
    if (reason.empty()) {
      reason = WIFEXITED(wait_status)
                   ? fmt::format("mpirun ended with exit status {}", WEXITSTATUS(wait_status))
                   : fmt::format("mpirun was ended by signal {}", WTERMSIG(wait_status));
      if (const std::string first = FirstParagraph(notices); !first.empty()) reason += ": " + first;
    }
    // That a rank which told its error has ended is all that mpirun has to say.
    const bool known = lines.reported() || lines.names_hosts() || !overseer.reason().empty();
    if (!notices.empty() && !stopping_ && !known) file = KeepNotices(notices);
    why = Unavailable("{}", reason);
  }
  if (overseer.reason().empty()) on_end_(why);
  const MutexLock lock(mutex_);
  notices_file_ = std::move(file);
  told_by_rank_ = lines.reported();
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
  stopping_ = true;
  End(grace);
}

void MpiJob::Kill() {
  stopping_ = true;
  {
    const MutexLock lock(mutex_);
    if (!ended_) kill(-pid_, SIGKILL);  // else the number may be somebody else's
    for (const auto& [rank, process] : local_ranks_) {
      pidfd_send_signal(process, SIGKILL, nullptr, 0);
    }
  }
  WaitUntilEnded(kTermination);
}

void MpiJob::Meet(const parallel::StartTable& starts) {
  const MutexLock lock(mutex_);
  for (int rank = 0; rank < ranks_; ++rank) {
    const parallel::StartNews& news = starts.news(rank);
    if (news.pid <= 0 || news.host != core::HostName() || local_ranks_.contains(rank)) continue;
    const int process = pidfd_open(news.pid, 0);
    if (process >= 0) local_ranks_.emplace(rank, process);
  }
}

bool MpiJob::Ready() {
  const MutexLock lock(mutex_);
  return ready_;
}

void MpiJob::CleanUp() {
  Stop(std::chrono::milliseconds(0));
  RemoveWhatRanksLeft();
  std::error_code error;
  std::filesystem::remove_all(folder_.path(), error);
}

void MpiJob::RemoveWhatRanksLeft() {
  {
    const MutexLock lock(mutex_);
    const auto end = std::chrono::steady_clock::now() + kDeath;
    for (const auto& [rank, process] : local_ranks_) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
          end - std::chrono::steady_clock::now());
      pollfd gone{.fd = process, .events = POLLIN, .revents = 0};
      poll(&gone, 1, static_cast<int>(std::max<int64_t>(0, left.count())));
    }
  }
  for (const std::string& place : {std::string("/dev/shm"), TemporaryPlace()}) {
    RemoveAbandoned(place);
  }
}

absl::Status MpiJob::Explain(absl::Status why) {
  End(kLastWords);
  const MutexLock lock(mutex_);
  if (told_by_rank_) return ReportedElsewhere(std::move(why));
  if (notices_file_.empty()) return why;
  return absl::Status(why.code(), fmt::format("{}; what mpirun said is kept in {}", Message(why),
                                              std::exchange(notices_file_, {})));
}

void MpiJob::End(std::chrono::milliseconds grace) {
  if (WaitUntilEnded(grace)) return;
  kill(pid_, SIGTERM);
  if (WaitUntilEnded(kTermination)) return;
  kill(-pid_, SIGKILL);
  WaitUntilEnded(kTermination);
}

}  // namespace tandem::launcher
