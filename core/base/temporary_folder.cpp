#include "core/base/temporary_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <system_error>

#include "core/base/errno_text.h"

namespace tandem {
namespace {

constexpr std::string_view kPrefix = "tandem-";
constexpr size_t kRandomLetters = 6;  // of mkdtemp
constexpr size_t kFileDigits = 16;    // of shared memory's names
constexpr int64_t kMebibyte = 1 << 20;
constexpr int64_t kUnknown = -1;

/// Whether a path is still the name of what is open: nobody has removed it meanwhile.
bool HasName(int fd, const std::string& path) {
  struct stat open_one {};
  struct stat named {};
  return fstat(fd, &open_one) == 0 && lstat(path.c_str(), &named) == 0 &&
         open_one.st_dev == named.st_dev && open_one.st_ino == named.st_ino;
}

/// Ours by its name: tandem-NAME-XXXXXX, or tandem-0123456789abcdef.
bool MayBeOurs(std::string_view name, bool folder) {
  if (!name.starts_with(kPrefix)) return false;
  name.remove_prefix(kPrefix.size());
  if (!folder) {
    return name.size() == kFileDigits &&
           name.find_first_not_of("0123456789abcdef") == std::string_view::npos;
  }
  const size_t dash = name.find('-');
  const std::string_view kind = name.substr(0, dash);
  return (kind == "job" || kind == "rank" || kind == "hosts" || kind == "chat") &&
         dash != std::string_view::npos && name.size() == dash + 1 + kRandomLetters;
}

/// kUnknown, with errno, where there is no such place.
int64_t FreeBytes(const std::string& place) {
  struct statvfs facts {};
  if (statvfs(place.c_str(), &facts) != 0) return kUnknown;
  return static_cast<int64_t>(facts.f_bavail) * static_cast<int64_t>(facts.f_frsize);
}

}  // namespace

std::string TemporaryPlace() {
  const char* wanted = std::getenv("TMPDIR");
  return wanted != nullptr && *wanted != '\0' ? wanted : "/tmp";
}

absl::StatusOr<TemporaryFolder> TemporaryFolder::Make(const std::string& name,
                                                      const std::vector<std::string>& places,
                                                      int64_t bytes) {
  std::string why;
  for (const std::string& place : places) {
    RemoveAbandoned(place);
    const int64_t free = FreeBytes(place);
    bool made = free >= bytes;
    if (!made && free != kUnknown) errno = ENOSPC;
    while (made) {
      TemporaryFolder folder;
      folder.path_ = fmt::format("{}/{}{}-XXXXXX", place, kPrefix, name);
      made = mkdtemp(folder.path_.data()) != nullptr;
      if (!made) {
        folder.path_.clear();
        break;
      }
      folder.fd_ = open(folder.path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
      // Whoever removes what is abandoned may have come before the lock.
      if (folder.fd_ >= 0 && flock(folder.fd_, LOCK_EX | LOCK_NB) == 0 &&
          HasName(folder.fd_, folder.path_)) {
        return folder;
      }
    }
    why += fmt::format("{}{}: {}", why.empty() ? "" : "; ", place, ErrnoText(errno));
  }
  return ResourceExhausted(
      "no temporary files can be made: {}; make room for {} MiB, or set TMPDIR", why,
      std::max<int64_t>(1, bytes / kMebibyte));
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code error;
  if (!path_.empty()) std::filesystem::remove_all(path_, error);
  if (fd_ >= 0) close(fd_);
}

void RemoveAbandoned(const std::string& place) {
  std::error_code error;
  for (std::filesystem::directory_iterator it(place, error), end; !error && it != end;
       it.increment(error)) {
    const std::string path = it->path().string();
    struct stat facts {};
    if (lstat(path.c_str(), &facts) != 0 || facts.st_uid != geteuid()) continue;
    const bool folder = S_ISDIR(facts.st_mode);
    if (!folder && !S_ISREG(facts.st_mode)) continue;
    if (!MayBeOurs(it->path().filename().string(), folder)) continue;
    const int fd = open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) continue;
    std::error_code ignored;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0 && HasName(fd, path)) {
      std::filesystem::remove_all(path, ignored);
    }
    close(fd);
  }
}

}  // namespace tandem
