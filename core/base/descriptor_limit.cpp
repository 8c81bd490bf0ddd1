#include "core/base/descriptor_limit.h"

#include <sys/resource.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <system_error>

namespace tandem {
namespace {

// Programs that close all that they could have open, as many do before they start another, take
// forever under a limit of 2^30.
constexpr rlim_t kMostDescriptors = 1 << 20;

}  // namespace

int64_t RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    const rlim_t most = std::min(limit.rlim_max, kMostDescriptors);
    if (limit.rlim_cur < most) {
      limit.rlim_cur = most;
      (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
  }
  return DescriptorLimit();
}

int64_t DescriptorLimit() {
  rlimit limit{};
  const bool known = getrlimit(RLIMIT_NOFILE, &limit) == 0;
  return static_cast<int64_t>(known ? std::min(limit.rlim_cur, kMostDescriptors)
                                    : kMostDescriptors);
}

absl::Status CheckDescriptors(int64_t needed) {
  if (DescriptorLimit() >= needed) return absl::OkStatus();
  return FailedPrecondition(
      "this process may have {} file descriptors (ulimit -Hn), and needs {}: raise the limit",
      DescriptorLimit(), needed);
}

int64_t OpenDescriptors() {
  std::error_code error;
  const std::filesystem::directory_iterator files("/proc/self/fd", error);
  if (error == std::errc::too_many_files_open) return DescriptorLimit();
  if (error) return 0;
  // The iterator itself is one.
  return std::distance(begin(files), end(files)) - 1;
}

ConnectionShare ShareDescriptors(int64_t descriptors, ConnectionShare wanted) {
  constexpr int64_t kPart = 4;  // of them that are told, at most
  const int64_t told = std::min(wanted.told, (descriptors + kPart - 1) / kPart);
  return {.served = std::min(wanted.served, descriptors - told), .told = told};
}

}  // namespace tandem
