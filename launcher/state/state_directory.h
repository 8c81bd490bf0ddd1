#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/base/mutex.h"
#include "core/base/status.h"

namespace tandem::launcher {

/// Whether this is a state directory that its owner alone may enter; makes it (mode 0700) if it is
/// not there and `may_make`. kInvalidArgument, naming the flag.
absl::Status CheckStateDirectory(const std::string& path, bool may_make);

inline constexpr int64_t kLeastRoom = int64_t{1} << 20;  // bytes, without which it is full

/// kResourceExhausted, saying what is left, if where the path is, or would be, less can be written
/// than a server needs to begin.
absl::Status CheckRoom(const std::string& path);

/// A directory that one server has at a time.
///
/// A file `lock` in it is locked (flock) as long as the owner lives, however it ends; it says who
/// that is. Thread safety: Announce and Hold from any thread.
class StateDirectory {
 public:
  /// Makes the directory (mode 0700) where it is not there, and takes it. `endpoint`: where the
  /// owner serves, as far as it is known. What is in the way of the files and folders in it is put
  /// aside (MakeWay), but for `lock`. kFailedPrecondition if another server has it, naming that
  /// one; kInvalidArgument if it cannot be had, kUnavailable if that cannot be known. From then on
  /// this process makes files that only its user may read.
  static absl::StatusOr<std::unique_ptr<StateDirectory>> Take(const std::string& path,
                                                              const std::string& endpoint);
  ~StateDirectory();
  StateDirectory(const StateDirectory&) = delete;
  StateDirectory& operator=(const StateDirectory&) = delete;

  /// Where the owner serves after all.
  void Announce(const std::string& endpoint);
  /// Whether the path still names the directory that was taken. Where somebody removed or replaced
  /// it, or its lock, it is taken again, and made again if it was removed. What happened; empty:
  /// nothing. kFailedPrecondition if another server has it now, naming that one; kUnavailable where
  /// it was moved away and none is there; else as Take. What somebody put among the files of
  /// agents, so that the next start is refused, happened, too.
  absl::StatusOr<std::string> Hold();

  const std::string& path() const { return path_; }
  /// What was put aside; empty: nothing was in the way.
  const std::string& put_aside() const { return put_aside_; }

 private:
  StateDirectory(std::string path, int lock) : path_(std::move(path)), lock_(lock) {}
  /// What is in the directory that is not ours, the first time that it is seen; looks now and then.
  std::string TellOfStrangers() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteOwner() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string lock_path() const { return path_ + "/lock"; }

  const std::string path_;
  std::string put_aside_;
  Mutex mutex_;
  int lock_ ABSL_GUARDED_BY(mutex_);                 // file descriptor
  std::vector<int> former_ ABSL_GUARDED_BY(mutex_);  // of directories that were moved away
  std::chrono::steady_clock::time_point looked_ ABSL_GUARDED_BY(mutex_);
  std::string strange_ ABSL_GUARDED_BY(mutex_);
  std::string endpoint_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tandem::launcher
