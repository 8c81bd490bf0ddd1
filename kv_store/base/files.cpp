#include "kv_store/base/files.h"

#include <fcntl.h>
#include <sodium.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <utility>

#include "core/base/errno_text.h"

namespace tandem::kv_store {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostBytes = 4096;  // of a small file

/// Beside the path, and hidden: whoever looks for such files does not take it for one.
std::string TemporaryName(const std::string& path) {
  return fmt::format("{}/.{}.{:08x}", FolderOf(path), fs::path(path).filename().string(),
                     randombytes_random());
}

absl::Status FileError(const std::string& path, std::string_view doing, int error) {
  if (error == ENOSPC || error == EDQUOT) {
    return ResourceExhausted("{}: the disk is full; make room or write elsewhere", path);
  }
  return Unavailable("{}: cannot be {}: {}", path, doing, ErrnoText(error));
}

absl::Status IsLink(const std::string& path) {
  return FailedPrecondition(
      "{}: it is a symbolic link, and none is followed here; remove it, or put what it names in "
      "its "
      "place (a bind mount serves a folder on another disk)",
      path);
}

absl::Status CheckOwner(const std::string& path, uid_t owner) {
  if (owner == geteuid()) return absl::OkStatus();
  return FailedPrecondition("{}: it belongs to user {}, not to {}; remove it, or run as its owner",
                            path, owner, geteuid());
}

}  // namespace

FreeSpace FreeSpaceAt(const std::string& path) {
  std::error_code error;
  fs::path there = fs::absolute(path, error);
  while (!error && !fs::exists(there, error) && there.has_relative_path()) {
    there = there.parent_path();
  }
  struct statvfs facts {};
  FreeSpace free;
  if (error || statvfs(there.c_str(), &facts) != 0) return free;
  if (facts.f_blocks > 0) free.bytes = static_cast<int64_t>(facts.f_bavail * facts.f_frsize);
  if (facts.f_files > 0) free.files = static_cast<int64_t>(facts.f_favail);
  return free;
}

bool Exists(const std::string& path) {
  std::error_code error;
  return fs::exists(path, error);
}

std::string FreeName(const std::string& path, std::string_view word) {
  for (int i = 1;; ++i) {
    std::string name = fmt::format("{}.{}-{}", path, word, i);
    if (!Exists(name)) return name;
  }
}

absl::Status Rename(const std::string& from, const std::string& to) {
  std::error_code error;
  fs::rename(from, to, error);
  return error ? Unavailable("renaming {} to {}: {}", from, to, error.message()) : absl::OkStatus();
}

absl::Status Remove(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  return error ? Unavailable("removing {}: {}", path, error.message()) : absl::OkStatus();
}

absl::Status SyncFolder(const std::string& folder) {
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const bool synced = fd >= 0 && fsync(fd) == 0;
  const int why = errno;
  if (fd >= 0) close(fd);
  return synced ? absl::OkStatus() : FileError(folder, "synced", why);
}

std::string FolderOf(const std::string& path) {
  const fs::path parent = fs::path(path).parent_path();
  return parent.empty() ? "." : parent.string();
}

absl::StatusOr<int> OpenOwnFile(const std::string& path, int flags) {
  // O_NONBLOCK: a pipe in its place must not be waited for.
  const int fd = open(path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
  if (fd < 0) {
    if (errno == ELOOP) return IsLink(path);
    if (errno == ENOENT) return NotFound("{}: {}", path, ErrnoText(errno));
    return FileError(path, "opened", errno);
  }
  struct stat facts {};
  absl::Status status;
  if (fstat(fd, &facts) != 0) {
    status = FileError(path, "looked at", errno);
  } else if (!S_ISREG(facts.st_mode)) {
    status = FailedPrecondition("{}: it is no regular file; remove it", path);
  } else if ((flags & O_ACCMODE) != O_RDONLY && facts.st_nlink > 1) {
    status = FailedPrecondition(
        "{}: it has another name, too (a hard link), under which it is not ours to write; remove "
        "this name",
        path);
  } else {
    status = CheckOwner(path, facts.st_uid);
  }
  if (status.ok()) return fd;
  close(fd);
  return status;
}

absl::Status CheckOwnTree(const std::string& path) {
  const auto check = [](const std::string& one) -> absl::Status {
    struct stat facts {};
    if (lstat(one.c_str(), &facts) != 0) {
      return errno == ENOENT ? absl::OkStatus() : FileError(one, "looked at", errno);
    }
    if (S_ISLNK(facts.st_mode)) return IsLink(one);
    if (!S_ISREG(facts.st_mode) && !S_ISDIR(facts.st_mode) && !S_ISSOCK(facts.st_mode)) {
      return FailedPrecondition("{}: it is no file, folder or socket; remove it", one);
    }
    return CheckOwner(one, facts.st_uid);
  };
  TANDEM_RETURN_IF_ERROR(check(path));
  std::error_code error;
  // What goes away meanwhile is fine.
  for (fs::recursive_directory_iterator entry(path, error), end; !error && entry != end;
       entry.increment(error)) {
    TANDEM_RETURN_IF_ERROR(check(entry->path().string()));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path, bool secret) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | (secret ? 0 : O_NOFOLLOW));
  if (fd < 0) {
    const std::string why = ErrnoText(errno);
    return errno == ENOENT ? NotFound("{}: {}", path, why) : Unavailable("{}: {}", path, why);
  }
  struct stat facts {};
  std::string text(kMostBytes + 1, '\0');
  size_t size = 0;
  ssize_t got = fstat(fd, &facts) == 0 ? 1 : -1;
  while (got > 0 && size < text.size()) {
    got = read(fd, text.data() + size, text.size() - size);
    if (got > 0) size += static_cast<size_t>(got);
  }
  const int why = errno;
  close(fd);
  if (got < 0) return Unavailable("{}: {}", path, ErrnoText(why));
  if (size > kMostBytes) {
    return absl::DataLossError(fmt::format("{}: it is larger than {} bytes", path, kMostBytes));
  }
  if (secret && (facts.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
    return InvalidArgument("{}: others may read it (mode {:04o}); run: chmod 600 {}", path,
                           facts.st_mode & 07777U, path);
  }
  text.resize(size);
  return text;
}

absl::StatusOr<std::unique_ptr<WholeFile>> WholeFile::Create(const std::string& path) {
  // Without a name nothing is left of it if this process is killed.
  const int unnamed = open(FolderOf(path).c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
  if (unnamed >= 0) return std::unique_ptr<WholeFile>(new WholeFile(path, unnamed));
  // Not every file system has such files.
  std::string temporary = TemporaryName(path) + "XXXXXX";
  const int named = mkostemp(temporary.data(), O_CLOEXEC);  // mode 0600
  if (named < 0) return FileError(path, "written", errno);
  std::unique_ptr<WholeFile> file(new WholeFile(path, named));
  file->temporary_ = std::move(temporary);
  return file;
}

WholeFile::~WholeFile() {
  close(file_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

absl::Status WholeFile::Write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(file_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return FileError(path_, "written", errno);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status WholeFile::Finish(bool sync, Before before) {
  const auto failed = [this] { return FileError(path_, "written", errno); };
  if (sync && fsync(file_) != 0) return failed();
  const auto link_as = [this](const std::string& name) {
    const std::string from =
        temporary_.empty() ? fmt::format("/proc/self/fd/{}", file_) : temporary_;
    return linkat(AT_FDCWD, from.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) == 0;
  };
  if (before == Before::kKeep) {
    if (!link_as(path_) && errno != EEXIST) return failed();
  } else {
    if (temporary_.empty()) {
      const std::string name = TemporaryName(path_);
      if (!link_as(name)) return failed();
      temporary_ = name;
    }
    if (rename(temporary_.c_str(), path_.c_str()) != 0) return failed();
    temporary_.clear();
  }
  // So that the name outlives a loss of power, too.
  return sync ? SyncFolder(FolderOf(path_)) : absl::OkStatus();
}

absl::Status WriteWholeFile(const std::string& path, std::string_view text, bool sync,
                            WholeFile::Before before) {
  TANDEM_ASSIGN_OR_RETURN(const auto file, WholeFile::Create(path));
  TANDEM_RETURN_IF_ERROR(file->Write(std::as_bytes(std::span(text))));
  return file->Finish(sync, before);
}

}  // namespace tandem::kv_store
