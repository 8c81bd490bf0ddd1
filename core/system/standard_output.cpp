#include "core/system/standard_output.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>

#include "core/base/errno_text.h"

namespace tandem {
namespace {

/// stdout remembers that there was an error, and not which.
std::atomic<int> first_error{0};

void Remember(int error) {
  int none = 0;
  first_error.compare_exchange_strong(none, error != 0 ? error : EIO);
}

}  // namespace

void OpenMissingStandardFiles() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
    // A new file has the lowest number that is free: this one.
    [[maybe_unused]] const int opened =
        open("/dev/null", fd == STDERR_FILENO ? O_WRONLY : O_RDONLY);
  }
}

void WriteOutput(std::string_view text) {
  if (first_error.load() != 0) return;
  errno = 0;
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) Remember(errno);
}

absl::Status FlushOutput() {
  errno = 0;
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) Remember(errno);
  const int error = first_error.load();
  return error == 0 ? absl::OkStatus() : OutputError(error);
}

absl::Status OutputError(int error) {
  return Unavailable("standard output cannot be written: {}", ErrnoText(error));
}

}  // namespace tandem
