#include "core/model/host_memory.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <new>
#include <optional>
#include <string>

#include "core/base/arena.h"

namespace tandem::core {
namespace {

std::optional<int64_t> NumberIn(const char* path) {
  std::ifstream file(path);
  int64_t number = 0;
  if (file >> number) return number;
  return std::nullopt;  // no such file, or "max"
}

/// What the control groups of this process have left: its own, and those that hold it.
/// mount: where they are; names: of the limit's file and of that which says how much is used.
int64_t LeftInGroups(std::filesystem::path mount, const std::string& group, const char* limit_name,
                     const char* used_name) {
  int64_t left = std::numeric_limits<int64_t>::max();
  const auto take = [&] {
    const auto limit = NumberIn((mount / limit_name).c_str());
    const auto used = NumberIn((mount / used_name).c_str());
    if (limit && used) left = std::min(left, std::max<int64_t>(0, *limit - *used));
  };
  take();
  // Groups in which this process is not as it sees them (in a container) have no such files.
  for (const auto& name : std::filesystem::path(group).relative_path()) {
    mount /= name;
    take();
  }
  return left;
}

int64_t LeftInGroups() {
  int64_t left = LeftInGroups("/sys/fs/cgroup", "", "memory.max", "memory.current");
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t second = line.find(':', line.find(':') + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(0, second);
    const std::string group = line.substr(second + 1);
    if (controllers == "0:") {
      left = std::min(left, LeftInGroups("/sys/fs/cgroup", group, "memory.max", "memory.current"));
    } else if (controllers.ends_with(":memory")) {
      left = std::min(left, LeftInGroups("/sys/fs/cgroup/memory", group, "memory.limit_in_bytes",
                                         "memory.usage_in_bytes"));
    }
  }
  return left;
}

/// What this process may still map (ulimit -v).
int64_t LeftOfAddresses() {
  rlimit limit{};
  int64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) {
    return std::numeric_limits<int64_t>::max();
  }
  return std::max<int64_t>(0, static_cast<int64_t>(limit.rlim_cur) - pages * sysconf(_SC_PAGESIZE));
}

}  // namespace

std::shared_ptr<std::byte> HostMemory::Allocate(int64_t bytes) {
  constexpr auto kAlignment = std::align_val_t{64};
  auto* data = static_cast<std::byte*>(::operator new(static_cast<size_t>(bytes), kAlignment));
  return {data, [](std::byte* p) { ::operator delete(p, kAlignment); }};
}

absl::StatusOr<std::shared_ptr<std::byte>> HostMemory::AllocateZeroed(int64_t bytes) {
  auto arena = std::make_shared<Arena>("the KV cache");
  TANDEM_ASSIGN_OR_RETURN(std::byte * data, arena->Allocate(bytes));
  return std::shared_ptr<std::byte>(std::move(arena), data);
}

absl::StatusOr<int64_t> HostMemory::AvailableBytes() const {
  int64_t available = std::numeric_limits<int64_t>::max();
  std::ifstream meminfo("/proc/meminfo");
  std::string word;
  while (meminfo >> word) {
    if (word == "MemAvailable:") {
      int64_t kilobytes = 0;
      if (meminfo >> kilobytes) available = kilobytes * 1024;
      break;
    }
  }
  return std::min({available, LeftInGroups(), LeftOfAddresses()});
}

absl::Status HostMemory::CopyToHost(std::span<const CopyRun> runs) {
  for (const CopyRun& run : runs) std::memcpy(run.host, run.device, run.bytes);
  return absl::OkStatus();
}

absl::Status HostMemory::CopyFromHost(std::span<const CopyRun> runs) {
  for (const CopyRun& run : runs) std::memcpy(run.device, run.host, run.bytes);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<DeviceCopy>> HostMemory::BeginCopy(CopyDirection direction,
                                                                  std::span<const CopyRun> runs) {
  const bool to_host = direction == CopyDirection::kToHost;
  TANDEM_RETURN_IF_ERROR(to_host ? CopyToHost(runs) : CopyFromHost(runs));
  return nullptr;
}

absl::Status HostMemory::CopyWithin(std::byte* to, const std::byte* from, size_t bytes) {
  std::memcpy(to, from, bytes);
  return absl::OkStatus();
}

}  // namespace tandem::core
