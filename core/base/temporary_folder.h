#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/base/status.h"

namespace tandem {

/// $TMPDIR, or /tmp.
std::string TemporaryPlace();

/// A folder (mode 0700) that goes with its owner, or, if that is killed, with whoever looks next.
///
/// The owner holds a lock on it (flock), which ends with the last process that has the folder's
/// descriptor, however it ends. Movable. Thread safety: none.
class TemporaryFolder {
 public:
  /// Makes `tandem-NAME-XXXXXX` in the first of these places where so many bytes are free, and
  /// removes what dead owners left in all of them. kResourceExhausted, naming all, if there is
  /// none.
  static absl::StatusOr<TemporaryFolder> Make(const std::string& name,
                                              const std::vector<std::string>& places,
                                              int64_t bytes = 0);

  TemporaryFolder() = default;
  TemporaryFolder(TemporaryFolder&& other) noexcept { *this = std::move(other); }
  TemporaryFolder& operator=(TemporaryFolder&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(fd_, other.fd_);
    return *this;
  }
  /// Removes it with all that is in it.
  ~TemporaryFolder();

  const std::string& path() const { return path_; }
  /// Closed by exec; a child that is to hold the lock, too, must clear that.
  int fd() const { return fd_; }

 private:
  std::string path_;
  int fd_ = -1;
};

/// Removes what processes of this user that have died left in `place`: folders that
/// TemporaryFolder made, and files `tandem-` with 16 hexadecimal digits that nobody has locked.
void RemoveAbandoned(const std::string& place);

}  // namespace tandem
