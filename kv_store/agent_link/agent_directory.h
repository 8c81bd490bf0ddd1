#pragma once

#include <string>
#include <utility>

#include "core/base/status.h"

namespace tandem::kv_store {

/// The directory in which the agent of a host and its clients meet: it holds the agent's socket,
/// lock and log, and only its user may enter it.
///
/// The socket is named by way of an open descriptor of the directory, since a socket's path has
/// only 107 characters. Thread safety: const functions.
class AgentDirectory {
 public:
  /// Makes it if it is not there, with mode 0700; what is in its way is put aside.
  static absl::StatusOr<AgentDirectory> Open(const std::string& path);
  AgentDirectory(AgentDirectory&& other) noexcept
      : path_(std::move(other.path_)),
        fd_(std::exchange(other.fd_, kClosed)),
        lock_fd_(std::exchange(other.lock_fd_, kClosed)) {}
  AgentDirectory& operator=(AgentDirectory&&) = delete;
  ~AgentDirectory();

  const std::string& path() const { return path_; }
  /// For ZeroMQ; good as long as this object lives, in this process.
  std::string address() const { return "ipc://" + socket_path(); }
  /// Whether an agent listens; OK, or kUnavailable at once.
  absl::Status Probe() const;
  /// Keeps other agents out until this object, or the process, ends, and puts aside what is in the
  /// way of the agent's socket. kFailedPrecondition if there is one.
  absl::Status Lock();
  /// Whether Lock could work, or another agent has it; says what is in the way.
  absl::Status CheckLock() const;
  /// Of one that Lock has locked: whether others are still kept out. kDataLoss where somebody has
  /// removed or replaced the lock, or the directory.
  absl::Status CheckLocked() const;
  /// Whether the path still names it.
  bool IsInPlace() const;
  /// Whether it is in no folder any more. One that is not in its place and not removed was moved.
  bool IsRemoved() const;

 private:
  static constexpr int kClosed = -1;

  AgentDirectory(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  std::string socket_path() const { return "/proc/self/fd/" + std::to_string(fd_) + "/agent.sock"; }

  std::string path_;
  int fd_ = kClosed;
  int lock_fd_ = kClosed;
};

}  // namespace tandem::kv_store
