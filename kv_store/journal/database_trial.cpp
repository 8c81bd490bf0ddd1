#include "kv_store/journal/database_trial.h"

#include <fcntl.h>
#include <rocksdb/env.h>
#include <rocksdb/file_system.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <memory>
#include <utility>

#include "kv_store/base/files.h"
#include "kv_store/journal/database_image.h"

namespace tandem::kv_store {
namespace {

constexpr unsigned kTrialSeconds = 60;

/// What ends a trial is told by whoever asked for it.
void BeQuiet() {
  spdlog::set_level(spdlog::level::off);
  const int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
  if (nowhere >= 0) (void)dup2(nowhere, STDERR_FILENO);
  const rlimit none{};
  (void)setrlimit(RLIMIT_CORE, &none);
}

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

bool Survives(const std::function<void()>& trial) {
  const pid_t child = fork();
  if (child == 0) {
    BeQuiet();
    for (const int deadly : {SIGABRT, SIGSEGV, SIGBUS}) (void)std::signal(deadly, SIG_DFL);
    alarm(kTrialSeconds);  // should another thread have held a lock
    trial();
    _exit(0);
  }
  int status = 0;
  while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (child < 0 || !WIFSIGNALED(status)) return true;
  const int by = WTERMSIG(status);
  return by != SIGABRT && by != SIGSEGV && by != SIGBUS;
}

bool SurvivesFiles(const std::string& folder,
                   const std::function<void(const std::string& folder)>& trial) {
  if (!Exists(folder)) return true;
  const std::string files = folder + kTrialFolder;
  absl::Status status = Remove(files);
  if (status.ok()) status = LinkFiles(folder, files);
  if (!status.ok()) {
    spdlog::warn("{}: {} is opened untried", Message(status), folder);
    return true;
  }
  const bool survives = Survives([&] { trial(files); });
  if (status = Remove(files); !status.ok()) spdlog::warn("{}", Message(status));
  return survives;
}

}  // namespace tandem::kv_store
