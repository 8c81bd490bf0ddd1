#include "kv_store/base/file_facts.h"

#include <sys/stat.h>

#include <cerrno>
#include <filesystem>

#include "core/base/errno_text.h"

namespace tandem::kv_store {
namespace {

FileFacts FactsIn(const struct stat& facts) {
  return {.device = facts.st_dev,
          .number = facts.st_ino,
          .bytes = facts.st_size,
          .names = facts.st_nlink};
}

absl::Status LookError(const std::string& path, int why) {
  if (why == ENOENT || why == ENOTDIR) return NotFound("{}: {}", path, ErrnoText(why));
  return Unavailable("{}: cannot be looked at: {}", path, ErrnoText(why));
}

}  // namespace

absl::StatusOr<FileFacts> FactsAt(const std::string& path) {
  struct stat facts {};
  if (lstat(path.c_str(), &facts) != 0) return LookError(path, errno);
  return FactsIn(facts);
}

absl::StatusOr<FileFacts> FactsOfOpen(int file, const std::string& path) {
  struct stat facts {};
  if (fstat(file, &facts) != 0) return LookError(path, errno);
  return FactsIn(facts);
}

std::vector<FileFacts> FactsOfOpenFiles() {
  std::vector<FileFacts> all;
  std::error_code error;
  for (std::filesystem::directory_iterator entry("/proc/self/fd", error), end;
       !error && entry != end; entry.increment(error)) {
    struct stat facts {};
    if (stat(entry->path().c_str(), &facts) == 0) all.push_back(FactsIn(facts));
  }
  return all;
}

}  // namespace tandem::kv_store
