#include "kv_store/journal/database_trial.h"

#include <fcntl.h>
#include <rocksdb/env.h>
#include <rocksdb/file_system.h>
#include <spawn.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <memory>
#include <utility>

#include "core/base/check.h"
#include "core/base/errno_text.h"
#include "kv_store/base/files.h"
#include "kv_store/journal/database_image.h"

namespace tandem::kv_store {
namespace {

constexpr unsigned kTrialSeconds = 60;
constexpr const char* kTrialCommand = "try-database";
constexpr const char* kThisProgram = "/proc/self/exe";

/// Whether another process of this program would run a trial.
std::atomic<bool>& MainRunsTrials() {
  static std::atomic<bool> runs = false;
  return runs;
}

/// What ends a trial is told by whoever asked for it.
void BeTrial() {
  spdlog::set_level(spdlog::level::off);
  const rlimit none{};
  (void)setrlimit(RLIMIT_CORE, &none);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  alarm(kTrialSeconds);
}

/// Of the process to start: what it says goes nowhere, and no signal is blocked or ignored.
struct SpawnSetting {
  SpawnSetting() {
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawnattr_init(&attributes);
    sigset_t none;
    sigemptyset(&none);
    sigset_t plain;
    sigfillset(&plain);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &plain);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  }
  ~SpawnSetting() {
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&files);
  }
  SpawnSetting(const SpawnSetting&) = delete;
  SpawnSetting& operator=(const SpawnSetting&) = delete;

  posix_spawn_file_actions_t files{};
  posix_spawnattr_t attributes{};
};

using rocksdb::FileOptions;
using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;

class UnsyncedFile final : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  using FSWritableFileOwnerWrapper::FSWritableFileOwnerWrapper;
  IOStatus Sync(const IOOptions&, IODebugContext*) override { return IOStatus::OK(); }
  IOStatus Fsync(const IOOptions&, IODebugContext*) override { return IOStatus::OK(); }
};

class UnsyncedDirectory final : public rocksdb::FSDirectoryWrapper {
 public:
  using FSDirectoryWrapper::FSDirectoryWrapper;
  IOStatus Fsync(const IOOptions&, IODebugContext*) override { return IOStatus::OK(); }
  IOStatus FsyncWithDirOptions(const IOOptions&, IODebugContext*,
                               const rocksdb::DirFsyncOptions&) override {
    return IOStatus::OK();
  }
};

class UnsyncedFiles final : public rocksdb::FileSystemWrapper {
 public:
  using FileSystemWrapper::FileSystemWrapper;
  const char* Name() const override { return "Unsynced"; }
  IOStatus NewWritableFile(const std::string& name, const FileOptions& options,
                           std::unique_ptr<rocksdb::FSWritableFile>* file,
                           IODebugContext* context) override {
    IOStatus status = target()->NewWritableFile(name, options, file, context);
    if (status.ok()) *file = std::make_unique<UnsyncedFile>(std::move(*file));
    return status;
  }
  IOStatus NewDirectory(const std::string& name, const IOOptions& options,
                        std::unique_ptr<rocksdb::FSDirectory>* directory,
                        IODebugContext* context) override {
    IOStatus status = target()->NewDirectory(name, options, directory, context);
    if (status.ok()) *directory = std::make_unique<UnsyncedDirectory>(std::move(*directory));
    return status;
  }
};

}  // namespace

rocksdb::Env* UnsyncedEnv() {
  static rocksdb::Env* const env =
      rocksdb::NewCompositeEnv(std::make_shared<UnsyncedFiles>(rocksdb::FileSystem::Default()))
          .release();
  return env;
}

bool TrialSurvives(const std::vector<std::string>& trial) {
  TANDEM_CHECK(MainRunsTrials(), "this program's main runs no trials (RunDatabaseTrial)");
  std::vector<std::string> words{kThisProgram, kTrialCommand};
  words.insert(words.end(), trial.begin(), trial.end());
  std::vector<char*> pointers;
  pointers.reserve(words.size() + 1);
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  const SpawnSetting setting;
  pid_t child = 0;
  const int failed = posix_spawn(&child, kThisProgram, &setting.files, &setting.attributes,
                                 pointers.data(), environ);
  if (failed != 0) {
    spdlog::warn("{} is done untried: no process can be started ({})", trial.front(),
                 ErrnoText(failed));
    return true;
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return true;  // somebody else has waited for it
  }
  if (!WIFSIGNALED(status)) return WEXITSTATUS(status) == 0;
  const int by = WTERMSIG(status);
  return by != SIGABRT && by != SIGSEGV && by != SIGBUS;
}

std::optional<std::vector<std::string_view>> TrialOf(std::span<const char* const> words) {
  MainRunsTrials() = true;
  if (words.size() < 2 || std::string_view(words[1]) != kTrialCommand) return std::nullopt;
  BeTrial();
  return std::vector<std::string_view>(words.begin() + 2, words.end());
}

void EndTrial() { _exit(0); }

bool SurvivesFiles(const std::string& folder,
                   const std::function<bool(const std::string& folder)>& survives) {
  if (!Exists(folder)) return true;
  const std::string files = folder + kTrialFolder;
  absl::Status status = Remove(files);
  if (status.ok()) status = LinkFiles(folder, files);
  if (!status.ok()) {
    spdlog::warn("{}: {} is opened untried", Message(status), folder);
    return true;
  }
  const bool survived = survives(files);
  if (status = Remove(files); !status.ok()) spdlog::warn("{}", Message(status));
  return survived;
}

}  // namespace tandem::kv_store
