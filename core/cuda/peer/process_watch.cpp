#include "core/cuda/peer/process_watch.h"

#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <random>

#include "core/system/text_file.h"

namespace tandem::core {

ProcessName ThisProcess() {
  static const ProcessName name = [] {
    ProcessName drawn;
    std::random_device random;
    for (uint8_t& byte : drawn.drawn) byte = static_cast<uint8_t>(random());
    const auto boot = ReadTextFile("/proc/sys/kernel/random/boot_id", 256);
    if (boot.ok()) drawn.boot = *boot;
    struct stat names = {};
    if (stat("/proc/self/ns/pid", &names) == 0) drawn.names = names.st_ino;
    drawn.number = static_cast<int32_t>(getpid());
    return drawn;
  }();
  return name;
}

ProcessWatch::ProcessWatch(const ProcessName& other) {
  if (other.names == 0 || other.names != ThisProcess().names) return;
  file_ = static_cast<int>(syscall(SYS_pidfd_open, other.number, 0));
}

ProcessWatch::~ProcessWatch() {
  if (file_ >= 0) close(file_);
}

bool ProcessWatch::ended() const {
  if (file_ < 0) return false;
  pollfd of = {.fd = file_, .events = POLLIN, .revents = 0};
  return poll(&of, 1, 0) == 1;
}

}  // namespace tandem::core
