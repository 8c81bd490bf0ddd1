#include "kv_store/agent_link/agent_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "kv_store/base/file_facts.h"
#include "kv_store/base/files.h"

namespace tandem::kv_store {
namespace {

absl::Status SystemError(const std::string& path, std::string_view what) {
  return Unavailable("KV agent's directory {}: {}: {}", path, what,
                     std::generic_category().message(errno));
}

}  // namespace

absl::StatusOr<AgentDirectory> AgentDirectory::Open(const std::string& path) {
  TANDEM_RETURN_IF_ERROR(MakeWay(path, FileKind::kFolder));
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return Unavailable("KV agent's directory {}: {}", path, error.message());
  TANDEM_RETURN_IF_ERROR(CheckOwnTree(path));
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return SystemError(path, "cannot be opened");
  AgentDirectory directory(path, fd);
  struct stat status {};
  if (fstat(fd, &status) != 0) return SystemError(path, "cannot be looked at");
  if (status.st_uid != geteuid()) {
    return FailedPrecondition(
        "KV agent's directory {}: it belongs to user {}, not to {}; name another one", path,
        status.st_uid, geteuid());
  }
  if (fchmod(fd, S_IRWXU) != 0) {
    return SystemError(path, "cannot be closed to other users (mode 0700)");
  }
  return directory;
}

AgentDirectory::~AgentDirectory() {
  if (fd_ != kClosed) close(fd_);
  if (lock_fd_ != kClosed) close(lock_fd_);
}

absl::Status AgentDirectory::Probe() const {
  const std::string path = socket_path();
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (probe < 0) return SystemError(path_, "no socket can be had");
  const int connected =
      connect(probe, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  const int why = errno;
  close(probe);
  // A full backlog is a busy agent, but an agent.
  if (connected == 0 || why == EAGAIN) return absl::OkStatus();
  return Unavailable("no KV agent listens in {} ({})", path_, std::generic_category().message(why));
}

absl::Status AgentDirectory::Lock() {
  TANDEM_ASSIGN_OR_RETURN(const OwnLock lock, TakeOwnLock(path_ + "/agent.lock"));
  if (!lock.taken) {
    close(lock.file);
    return FailedPrecondition("KV agent's directory {}: an agent runs there already", path_);
  }
  lock_fd_ = lock.file;
  return MakeWay(path_ + "/agent.sock", FileKind::kSocket);
}

absl::Status AgentDirectory::CheckLocked() const {
  const std::string path = path_ + "/agent.lock";
  const auto there = FactsAt(path);
  if (absl::IsNotFound(there.status())) return absl::DataLossError(path + " is gone");
  TANDEM_RETURN_IF_ERROR(there.status());
  TANDEM_ASSIGN_OR_RETURN(const FileFacts ours, FactsOfOpen(lock_fd_, path));
  if (ours.IsSameFile(*there)) return absl::OkStatus();
  return absl::DataLossError(path + " was replaced");
}

bool AgentDirectory::IsInPlace() const {
  const auto there = FactsAt(path_);
  const auto ours = FactsOfOpen(fd_, path_);
  return there.ok() && ours.ok() && ours->IsSameFile(*there);
}

bool AgentDirectory::IsRemoved() const {
  const auto ours = FactsOfOpen(fd_, path_);
  return ours.ok() && ours->names == 0;
}

absl::Status AgentDirectory::CheckLock() const {
  const absl::Status status = CheckOwnLock(path_ + "/agent.lock");
  if (status.ok()) return status;
  return absl::Status(
      status.code(),
      fmt::format("{} (without it nobody can know whether an agent runs there)", Message(status)));
}

}  // namespace tandem::kv_store
