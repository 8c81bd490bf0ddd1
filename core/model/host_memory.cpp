#include "core/model/host_memory.h"

#include <algorithm>
#include <cstring>
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

}  // namespace

std::shared_ptr<std::byte> HostMemory::Allocate(int64_t bytes) {
  constexpr auto kAlignment = std::align_val_t{64};
  auto* data = static_cast<std::byte*>(::operator new(static_cast<size_t>(bytes), kAlignment));
  return {data, [](std::byte* p) { ::operator delete(p, kAlignment); }};
}

absl::StatusOr<std::shared_ptr<std::byte>> HostMemory::AllocateZeroed(int64_t bytes) {
  auto arena = std::make_shared<Arena>();
  TANDEM_ASSIGN_OR_RETURN(std::byte * data, arena->Allocate(bytes));
  return std::shared_ptr<std::byte>(std::move(arena), data);
}

int64_t HostMemory::AvailableBytes() const {
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
  const auto limit = NumberIn("/sys/fs/cgroup/memory.max");
  const auto used = NumberIn("/sys/fs/cgroup/memory.current");
  if (limit && used) available = std::min(available, std::max<int64_t>(0, *limit - *used));
  return available;
}

void HostMemory::CopyToHost(std::span<const CopyRun> runs) {
  for (const CopyRun& run : runs) std::memcpy(run.host, run.device, run.bytes);
}

void HostMemory::CopyFromHost(std::span<const CopyRun> runs) {
  for (const CopyRun& run : runs) std::memcpy(run.device, run.host, run.bytes);
}

void HostMemory::CopyWithin(std::byte* to, const std::byte* from, size_t bytes) {
  std::memcpy(to, from, bytes);
}

}  // namespace tandem::core
