#include "launcher/job/loopback_preload.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>

#include "core/base/errno_text.h"

// The library's file, as it was built (TANDEM_LOOPBACK_LIBRARY: its path).
asm(".section .rodata\n"
    ".global tandem_loopback_begin\n"
    "tandem_loopback_begin:\n"
    ".incbin \"" TANDEM_LOOPBACK_LIBRARY
    "\"\n"
    ".global tandem_loopback_end\n"
    "tandem_loopback_end:\n"
    ".byte 0\n"
    ".previous\n");
extern "C" {
extern const char tandem_loopback_begin[];
extern const char tandem_loopback_end[];
}

namespace tandem::launcher {

absl::StatusOr<LoopbackPreload> LoopbackPreload::Make() {
  // No MFD_CLOEXEC: mpirun opens it by this descriptor, and closes it before it starts ranks.
  const int fd = memfd_create("tandem-loopback-only", 0);
  if (fd < 0) return Internal("memfd_create: {}", ErrnoText(errno));
  LoopbackPreload preload(fd);
  const auto bytes = static_cast<size_t>(tandem_loopback_end - tandem_loopback_begin);
  if (write(fd, tandem_loopback_begin, bytes) != static_cast<ssize_t>(bytes)) {
    return Internal("memfd: {}", ErrnoText(errno));
  }
  return preload;
}

LoopbackPreload::~LoopbackPreload() {
  if (fd_ >= 0) close(fd_);
}

}  // namespace tandem::launcher
