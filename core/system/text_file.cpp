#include "core/system/text_file.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>

#include "core/base/errno_text.h"

namespace tandem {
namespace {

constexpr int kPatienceMillis = 10'000;
constexpr int kForEver = -1;
constexpr size_t kPieceBytes = size_t{64} << 10;

/// what: as errors name it.
absl::StatusOr<std::string> ReadAll(int file, std::string_view what, size_t most,
                                    int patience_millis) {
  std::string text;
  for (size_t size = 0;;) {
    pollfd readable{.fd = file, .events = POLLIN, .revents = 0};
    if (poll(&readable, 1, patience_millis) == 0) {
      return InvalidArgument("{}: nothing has come from it for {} s", what, patience_millis / 1000);
    }
    text.resize(std::max(size + kPieceBytes, std::min(size * 2, most + 1)));
    const ssize_t got = read(file, text.data() + size, text.size() - size);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got < 0) return InvalidArgument("{}: cannot be read: {}", what, ErrnoText(errno));
    size += static_cast<size_t>(got);
    if (size > most) {
      return InvalidArgument("{}: it has more than {} MiB, or no end", what, most >> 20);
    }
    if (got > 0) continue;
    text.resize(size);
    return text;
  }
}

}  // namespace

absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t most) {
  // O_NONBLOCK: opening a pipe must not wait for its writer, whom ReadAll waits for.
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (file < 0) return InvalidArgument("{}: cannot be read: {}", path, ErrnoText(errno));
  auto text = ReadAll(file, path, most, kPatienceMillis);
  close(file);
  return text;
}

absl::StatusOr<std::string> ReadStandardInput(size_t most) {
  return ReadAll(STDIN_FILENO, "standard input", most, kForEver);
}

}  // namespace tandem
