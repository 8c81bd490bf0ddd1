#include "launcher/state/state_directory.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <string_view>
#include <utility>

#include "core/base/counted.h"
#include "core/base/errno_text.h"
#include "core/system/file_kind.h"
#include "core/system/host_name.h"
#include "kv_store/base/file_facts.h"
#include "kv_store/base/files.h"

namespace tandem::launcher {
namespace {

constexpr std::string_view kOwner = "process ";  // how the owner's words begin
constexpr auto kBetweenLooks = std::chrono::milliseconds(900);
constexpr int64_t kLeastFiles = 64;  // of the databases

std::string OwnerIn(int lock) {
  std::array<char, 1024> text{};
  const ssize_t size = pread(lock, text.data(), text.size(), 0);
  std::string owner(text.data(), size > 0 ? static_cast<size_t>(size) : 0);
  if (!owner.starts_with(kOwner)) owner.clear();  // another's words, by a link
  while (!owner.empty() && owner.back() == '\n') owner.pop_back();
  return owner.empty() ? "a server that has not said who it is yet" : owner;
}

/// What a server that runs puts right by itself.
bool IsHeld(std::string_view name) {
  return name == "conversations" || name == "conversations.witness";
}

/// Of all that is ours by its name: others may keep something else beside it (`lost+found`).
absl::Status CheckContents(const std::string& path, bool held_too) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(path, error)) {
    const std::string name = entry.path().filename().string();
    const bool used = name == "kv" || name == "copies" || name.starts_with("conversations");
    if (!held_too && IsHeld(name)) continue;
    const absl::Status status = used && !kv_store::IsAside(name)
                                    ? kv_store::CheckOwnTree(entry.path().string())
                                    : absl::OkStatus();
    if (!status.ok()) return InvalidArgument("--state {}: {}", path, Message(status));
  }
  return absl::OkStatus();
}

/// Puts aside what is in the way of what must be there; says what that was.
absl::StatusOr<std::string> ClearTheWay(const std::string& path) {
  using Kind = kv_store::FileKind;
  std::string all;
  for (const auto& [name, kind] : {std::pair{"conversations", Kind::kFolder},
                                   {"conversations.witness", Kind::kFile},
                                   {"kv", Kind::kFolder}}) {
    const std::string file = fmt::format("{}/{}", path, name);
    TANDEM_ASSIGN_OR_RETURN(const std::string told, kv_store::MakeWay(file, kind, file));
    if (told.empty()) continue;
    spdlog::warn("{}", told);
    all += (all.empty() ? "" : "; ") + told;
  }
  return all;
}

/// Locks a directory; the file descriptor of its lock.
absl::StatusOr<int> TakeLock(const std::string& path) {
  const absl::StatusOr<kv_store::OwnLock> lock = kv_store::TakeOwnLock(path + "/lock");
  if (absl::IsFailedPrecondition(lock.status())) {
    return InvalidArgument("--state {}: {}", path, Message(lock.status()));
  }
  if (!lock.ok()) {
    return absl::Status(
        lock.status().code(),
        fmt::format("--state {}: {} (without it nobody can know whether another server has the "
                    "directory: see first that none runs)",
                    path, Message(lock.status())));
  }
  if (lock->taken) return lock->file;
  const std::string owner = OwnerIn(lock->file);
  close(lock->file);
  return FailedPrecondition(
      "--state {}: it is in use by {}; one server at a time: stop that one, or choose another "
      "directory",
      path, owner);
}

}  // namespace

absl::Status CheckStateDirectory(const std::string& path, bool may_make) {
  std::error_code error;
  if (may_make) std::filesystem::create_directories(path, error);
  struct stat facts {};
  const bool there = stat(path.c_str(), &facts) == 0;
  if (there && !S_ISDIR(facts.st_mode)) {
    return InvalidArgument("--state {}: it is {}, and no folder", path,
                           FileKindText(facts.st_mode));
  }
  if (!there || error) {
    return InvalidArgument("--state {}: {}", path, error ? error.message() : ErrnoText(errno));
  }
  if (facts.st_uid != geteuid()) {
    return InvalidArgument("--state {}: it belongs to user {}, not to {}; name another one", path,
                           facts.st_uid, geteuid());
  }
  if ((facts.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
    return InvalidArgument(
        "--state {}: others may look into it (mode {:04o}), and it holds what users said; run: "
        "chmod 700 {}",
        path, facts.st_mode & 07777U, path);
  }
  return absl::OkStatus();
}

absl::Status CheckRoom(const std::string& path) {
  const kv_store::FreeSpace free = kv_store::FreeSpaceAt(path);
  if (free.bytes < kLeastRoom) {
    return ResourceExhausted("its disk is full, {} free",
                             Counted(free.bytes, "byte is", "bytes are"));
  }
  if (free.files < kLeastFiles) {
    return ResourceExhausted("its disk is full, there is room for {}", Counted(free.files, "file"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<StateDirectory>> StateDirectory::Take(const std::string& path,
                                                                     const std::string& endpoint) {
  umask(S_IRWXG | S_IRWXO);
  TANDEM_RETURN_IF_ERROR(CheckStateDirectory(path, /*may_make=*/true));
  TANDEM_RETURN_IF_ERROR(CheckContents(path, /*held_too=*/true));
  TANDEM_ASSIGN_OR_RETURN(const int lock, TakeLock(path));
  std::unique_ptr<StateDirectory> taken(new StateDirectory(path, lock));
  taken->Announce(endpoint);
  TANDEM_ASSIGN_OR_RETURN(taken->put_aside_, ClearTheWay(path));
  return taken;
}

StateDirectory::~StateDirectory() {
  const MutexLock lock(mutex_);
  // Emptied first, so that nobody reads of an owner that is gone.
  if (ftruncate(lock_, 0) != 0) spdlog::warn("{}: {}", lock_path(), ErrnoText(errno));
  close(lock_);
  for (const int former : former_) close(former);
}

void StateDirectory::Announce(const std::string& endpoint) {
  const MutexLock lock(mutex_);
  endpoint_ = endpoint;
  WriteOwner();
}

void StateDirectory::WriteOwner() {
  const std::string owner = fmt::format("{}{} on host {}, which serves on {}\n", kOwner, getpid(),
                                        core::HostName(), endpoint_);
  // On a full disk the lock still holds, and says less.
  if (ftruncate(lock_, 0) != 0 ||
      pwrite(lock_, owner.data(), owner.size(), 0) != static_cast<ssize_t>(owner.size())) {
    spdlog::warn("{}: {}", lock_path(), ErrnoText(errno));
  }
}

std::string StateDirectory::TellOfStrangers() {
  const auto now = std::chrono::steady_clock::now();
  if (now - looked_ < kBetweenLooks) return "";
  looked_ = now;
  const absl::Status status = CheckContents(path_, /*held_too=*/false);
  const std::string before = std::exchange(strange_, status.ok() ? "" : Message(status));
  if (strange_.empty() || strange_ == before) return "";
  return strange_ + ": until then no server starts here";
}

absl::StatusOr<std::string> StateDirectory::Hold() {
  const MutexLock mutex_lock(mutex_);
  const auto there = kv_store::FactsAt(lock_path());
  if (!there.ok() && !absl::IsNotFound(there.status())) return there.status();
  TANDEM_ASSIGN_OR_RETURN(const auto ours, kv_store::FactsOfOpen(lock_, lock_path()));
  if (there.ok() && ours.IsSameFile(*there)) return TellOfStrangers();
  const bool gone = !kv_store::Exists(path_);
  if (gone && ours.names > 0) {
    return Unavailable(
        "{} is not there any more, but was not removed: put it back, or make another (mkdir -m 700 "
        "{}), into which all is written",
        path_, path_);
  }
  TANDEM_RETURN_IF_ERROR(CheckStateDirectory(path_, /*may_make=*/true));
  const absl::StatusOr<int> taken = TakeLock(path_);
  if (!taken.ok()) {
    return absl::Status(taken.status().code(),
                        fmt::format("{} was {} while this server ran: {}", lock_path(),
                                    there.ok() ? "replaced" : "removed", Message(taken.status())));
  }
  // Nobody else is to have what was moved away as long as this process has it open.
  if (ours.names > 0) {
    former_.push_back(lock_);
  } else {
    close(lock_);
  }
  lock_ = *taken;
  WriteOwner();
  if (gone) return fmt::format("{} was removed while the server ran; it is made again", path_);
  return fmt::format("{} was {} while the server ran; it is locked again", lock_path(),
                     there.ok() ? "replaced" : "removed");
}

}  // namespace tandem::launcher
