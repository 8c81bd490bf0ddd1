#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/status.h"

namespace tandem::kv_store {

/// What the file system says of a file, whatever its name.
struct FileFacts {
  uint64_t device = 0;
  uint64_t number = 0;  // of the inode: with the device, which file it is
  int64_t bytes = 0;
  uint64_t names = 0;  // 0: it was removed, and is there for those who have it open

  bool IsSameFile(const FileFacts& other) const {
    return device == other.device && number == other.number;
  }
};

/// Of what has that name: a link is itself. kNotFound if nothing has; kUnavailable.
absl::StatusOr<FileFacts> FactsAt(const std::string& path);
/// Of an open file; `path`: for the error. kUnavailable.
absl::StatusOr<FileFacts> FactsOfOpen(int file, const std::string& path);

/// Of all files that this process has open, whatever their names are now.
std::vector<FileFacts> FactsOfOpenFiles();

}  // namespace tandem::kv_store
