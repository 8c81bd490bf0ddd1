#include "kv_store/base/files.h"

#include <fcntl.h>
#include <sodium.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <utility>

#include "core/base/errno_text.h"
#include "core/system/file_kind.h"
#include "kv_store/base/file_facts.h"

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
  return fs::symlink_status(path, error).type() != fs::file_type::not_found;
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

namespace {

/// What is at a path, not what a link names; nothing: nothing is there.
absl::StatusOr<std::optional<struct stat>> FactsOf(const std::string& path) {
  struct stat facts {};
  if (lstat(path.c_str(), &facts) == 0) return facts;
  if (errno == ENOENT) return std::nullopt;
  return FileError(path, "looked at", errno);
}

bool IsKind(const struct stat& facts, FileKind kind) {
  switch (kind) {
    case FileKind::kFile:
      return S_ISREG(facts.st_mode);
    case FileKind::kFolder:
      return S_ISDIR(facts.st_mode);
    case FileKind::kSocket:
      return S_ISSOCK(facts.st_mode);
  }
  return false;
}

std::string_view Described(const struct stat& facts) {
  return S_ISLNK(facts.st_mode) ? "a link that names nothing" : FileKindText(facts.st_mode);
}

/// A link that names nothing is one of ours as well as anything; nobody may open it.
absl::Status CheckOwn(const std::string& path, const struct stat& facts) {
  struct stat named {};
  if (S_ISLNK(facts.st_mode) && stat(path.c_str(), &named) == 0) return IsLink(path);
  return CheckOwner(path, facts.st_uid);
}

mode_t OwnersMode(const struct stat& facts) {
  return S_ISDIR(facts.st_mode) ? S_IRWXU : S_IRUSR | S_IWUSR;
}

/// Lets the owner use it.
absl::StatusOr<std::string> OpenToOwner(const std::string& path, const struct stat& facts) {
  const mode_t mode = OwnersMode(facts);
  if (S_ISSOCK(facts.st_mode) || (facts.st_mode & mode) == mode) return "";
  // Not by its name, which might be another's by now.
  const int fd = open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return FileError(path, "looked at", errno);
  const bool changed = chmod(fmt::format("/proc/self/fd/{}", fd).c_str(), mode) == 0;
  const int why = errno;
  close(fd);
  if (!changed) return FileError(path, "opened to its owner", why);
  return fmt::format("{}: its owner might not use it (mode {:04o}), and may now", path,
                     facts.st_mode & 07777U);
}

}  // namespace

absl::StatusOr<int> OpenOwnFile(const std::string& path, int flags) {
  // O_NONBLOCK: a pipe in its place must not be waited for.
  const auto try_it = [&] {
    return open(path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
  };
  int fd = try_it();
  if (fd < 0) {
    const int why = errno;
    if (why == ELOOP) return IsLink(path);
    if (why == ENOENT) return NotFound("{}: {}", path, ErrnoText(why));
    TANDEM_ASSIGN_OR_RETURN(const auto there, FactsOf(path));
    if (there && !S_ISREG(there->st_mode)) {
      return Unavailable("{}: it is {}, and no file; move it away", path, Described(*there));
    }
    if (!there || why != EACCES || there->st_uid != geteuid())
      return FileError(path, "opened", why);
    TANDEM_RETURN_IF_ERROR(OpenToOwner(path, *there).status());
    fd = try_it();
    if (fd < 0) return FileError(path, "opened", errno);
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

namespace {

/// One that has several names is opened to read.
absl::StatusOr<int> OpenLock(const std::string& path, int flags) {
  const auto facts = FactsOf(path);
  const bool linked = facts.ok() && *facts && S_ISREG((*facts)->st_mode) && (*facts)->st_nlink > 1;
  return OpenOwnFile(path, linked ? O_RDONLY : flags);
}

}  // namespace

absl::Status CheckOwnLock(const std::string& path) {
  const auto opened = OpenLock(path, O_RDWR);
  if (opened.ok()) close(*opened);
  return absl::IsNotFound(opened.status()) ? absl::OkStatus() : opened.status();
}

absl::StatusOr<OwnLock> TakeOwnLock(const std::string& path) {
  while (true) {
    const auto opened = OpenLock(path, O_RDWR | O_CREAT);
    if (absl::IsNotFound(opened.status()) && Exists(FolderOf(path))) continue;
    TANDEM_RETURN_IF_ERROR(opened.status());
    const bool linked = (fcntl(*opened, F_GETFL) & O_ACCMODE) != O_RDWR;
    if (flock(*opened, LOCK_EX | LOCK_NB) != 0) {
      const int why = errno;
      if (why == EWOULDBLOCK) return OwnLock{.file = *opened, .taken = false};
      close(*opened);
      return FileError(path, "locked", why);
    }
    const auto ours = FactsOfOpen(*opened, path);
    const auto there = FactsAt(path);
    const bool in_place = ours.ok() && there.ok() && ours->IsSameFile(*there);
    if (in_place && ours->names == 1 && !linked) return OwnLock{.file = *opened, .taken = true};
    // Whoever else comes finds it locked until it is another's name only.
    const bool stuck = in_place && unlink(path.c_str()) != 0;
    const int why = errno;
    close(*opened);
    if (stuck) return FileError(path, "replaced", why);
    TANDEM_RETURN_IF_ERROR(ours.status());
    if (!absl::IsNotFound(there.status())) TANDEM_RETURN_IF_ERROR(there.status());
  }
}

absl::StatusOr<int> OpenOwnLog(const std::string& path) {
  const auto before = FactsAt(path);
  if (before.ok() && before->names > 1 && unlink(path.c_str()) != 0) {
    return FileError(path, "replaced", errno);
  }
  return OpenOwnFile(path, O_WRONLY | O_CREAT | O_APPEND);
}

absl::Status CheckOwnTree(const std::string& path) {
  const auto check = [](const std::string& one) -> absl::Status {
    TANDEM_ASSIGN_OR_RETURN(const auto facts, FactsOf(one));
    return facts ? CheckOwn(one, *facts) : absl::OkStatus();
  };
  TANDEM_RETURN_IF_ERROR(check(path));
  std::error_code error;
  // What goes away meanwhile is fine.
  constexpr auto kOptions = fs::directory_options::skip_permission_denied;
  for (fs::recursive_directory_iterator entry(path, kOptions, error), end; !error && entry != end;
       entry.increment(error)) {
    if (IsAside(entry->path().filename().string())) {
      entry.disable_recursion_pending();
      continue;
    }
    TANDEM_RETURN_IF_ERROR(check(entry->path().string()));
  }
  return absl::OkStatus();
}

bool IsAside(std::string_view name) {
  const size_t digits = name.find_last_not_of("0123456789") + 1;
  if (digits == name.size()) return false;
  name = name.substr(0, digits);
  return name.ends_with(".damaged-") || name.ends_with(".aside-");
}

absl::StatusOr<std::string> MakeWay(const std::string& path, FileKind kind,
                                    const std::string& aside) {
  TANDEM_ASSIGN_OR_RETURN(auto facts, FactsOf(path));
  if (!facts) return "";
  TANDEM_RETURN_IF_ERROR(CheckOwn(path, *facts));
  if (IsKind(*facts, kind)) return OpenToOwner(path, *facts);
  // Another process may do the same, and then make what belongs there.
  const int folder = open(FolderOf(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder >= 0) (void)flock(folder, LOCK_EX);
  std::string told;
  absl::Status status;
  TANDEM_ASSIGN_OR_RETURN(facts, FactsOf(path));
  if (facts && !IsKind(*facts, kind)) {
    const std::string name = FreeName(aside, "damaged");
    status = Rename(path, name);
    told = fmt::format("{} was {}, which is kept in {}", path, Described(*facts), name);
  }
  if (folder >= 0) close(folder);
  if (!status.ok()) return status;
  return told;
}

absl::Status MakeWay(const std::string& path, FileKind kind) {
  TANDEM_ASSIGN_OR_RETURN(const std::string told, MakeWay(path, kind, path));
  if (!told.empty()) spdlog::warn("{}", told);
  return absl::OkStatus();
}

absl::StatusOr<std::string> MakeWayInFolder(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  std::string all;
  for (const std::string& name : names) {
    TANDEM_ASSIGN_OR_RETURN(const std::string told,
                            MakeWay(fmt::format("{}/{}", folder, name), FileKind::kFile,
                                    fmt::format("{}.{}", folder, name)));
    if (told.empty()) continue;
    spdlog::warn("{}", told);
    all += (all.empty() ? "" : "; ") + told;
  }
  return all;
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path, bool secret) {
  // A pipe in the place of a file of ours must not be waited for.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | (secret ? 0 : O_NOFOLLOW | O_NONBLOCK));
  if (fd < 0) {
    const std::string why = ErrnoText(errno);
    return errno == ENOENT ? NotFound("{}: {}", path, why) : Unavailable("{}: {}", path, why);
  }
  struct stat facts {};
  std::string text(kMostBytes + 1, '\0');
  size_t size = 0;
  ssize_t got = fstat(fd, &facts) == 0 ? 1 : -1;
  if (got > 0 && !secret && !S_ISREG(facts.st_mode)) {
    close(fd);
    return Unavailable("{}: it is no file", path);
  }
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
