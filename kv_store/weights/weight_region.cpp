#include "kv_store/weights/weight_region.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>

#include "core/base/counted.h"
#include "core/base/errno_text.h"

// Of Linux 5.14 and 6.1; an older one knows neither and says EINVAL.
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace tandem::kv_store {
namespace {

constexpr int64_t kHuge = WeightRegion::kHugePage;
constexpr size_t kSmallPage = 4096;

/// Addresses that nothing else gets, from a huge page's boundary on.
absl::StatusOr<std::byte*> Reserve(int64_t bytes) {
  const auto size = static_cast<size_t>(bytes + kHuge);
  void* const address = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) {
    return ResourceExhausted("{} of addresses for weights cannot be had: {}", SizeText(bytes),
                             ErrnoText(errno));
  }
  auto* const begin = static_cast<std::byte*>(address);
  const auto over = static_cast<int64_t>(reinterpret_cast<uintptr_t>(begin) % kHuge);
  const int64_t before = over == 0 ? 0 : kHuge - over;
  if (before > 0) munmap(begin, static_cast<size_t>(before));
  if (const int64_t after = kHuge - before; after > 0) {
    munmap(begin + before + bytes, static_cast<size_t>(after));
  }
  return begin + before;
}

int64_t WholePages(int64_t bytes) {
  constexpr auto kPage = static_cast<int64_t>(kSmallPage);
  return (bytes + kPage - 1) / kPage * kPage;
}

absl::StatusOr<std::byte*> Map(int64_t bytes, int protection, int flags, int file) {
  TANDEM_ASSIGN_OR_RETURN(std::byte* const place, Reserve(bytes));
  const auto size = static_cast<size_t>(bytes);
  if (mmap(place, size, protection, flags | MAP_FIXED, file, 0) == MAP_FAILED) {
    const int why = errno;
    munmap(place, size);
    return ResourceExhausted("{} of memory for weights cannot be had: {}", SizeText(bytes),
                             ErrnoText(why));
  }
  madvise(place, size, MADV_HUGEPAGE);  // a wish
  return place;
}

int64_t Units(int64_t bytes) { return (bytes + kHuge - 1) / kHuge; }

}  // namespace

absl::StatusOr<WeightRegion> WeightRegion::OfFile(int file, int64_t bytes, bool writable) {
  const int64_t size = WholePages(bytes);
  TANDEM_ASSIGN_OR_RETURN(
      std::byte* const data,
      Map(size, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, file));
  return WeightRegion(data, size);
}

absl::StatusOr<WeightRegion> WeightRegion::Private(int64_t bytes) {
  const int64_t size = WholePages(bytes);
  TANDEM_ASSIGN_OR_RETURN(std::byte* const data,
                          Map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1));
  return WeightRegion(data, size);
}

WeightRegion& WeightRegion::operator=(WeightRegion&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

WeightRegion::~WeightRegion() {
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(size_));
}

absl::Status WeightRegion::Fill(const RunTasks& run) {
  std::atomic<int> failed = 0;
  run(Units(size_), [&](int64_t unit) {
    std::byte* const begin = data_ + unit * kHuge;
    const auto size = static_cast<size_t>(std::min(kHuge, size_ - unit * kHuge));
    // Of a hole a huge page can be made at once if a small part of it is there; what is there in
    // small pages altogether would have to be copied.
    if (size == static_cast<size_t>(kHuge) &&
        madvise(begin, kSmallPage, MADV_POPULATE_WRITE) == 0) {
      madvise(begin, size, MADV_COLLAPSE);
    }
    if (madvise(begin, size, MADV_POPULATE_WRITE) != 0) failed = errno;
  });
  if (failed == 0) return absl::OkStatus();
  if (failed == EINVAL) return Unimplemented("memory cannot be had ahead of its use here");
  return ResourceExhausted("there is no room for {} of weights", SizeText(size_));
}

void WeightRegion::Collapse(const RunTasks& run) {
  run(size_ / kHuge, [&](int64_t unit) {
    madvise(data_ + unit * kHuge, static_cast<size_t>(kHuge), MADV_COLLAPSE);
  });
}

int64_t WeightRegion::HugeBytes() const {
  std::ifstream maps("/proc/self/smaps");
  const auto address = reinterpret_cast<uintptr_t>(data_);
  bool here = false;
  int64_t bytes = 0;
  for (std::string line; std::getline(maps, line);) {
    uintptr_t begin = 0;
    uintptr_t end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2) {  // a mapping begins
      if (here) break;
      here = begin <= address && address < end;
    } else if (here) {
      const size_t colon = line.find(':');
      const std::string_view field = std::string_view(line).substr(0, colon);
      if (field != "AnonHugePages" && field != "ShmemPmdMapped" && field != "FilePmdMapped") {
        continue;
      }
      bytes += std::strtoll(line.c_str() + colon + 1, nullptr, 10) * 1024;
    }
  }
  return bytes;
}

absl::Status WeightRegion::MakePrivate(const RunTasks& run) {
  TANDEM_ASSIGN_OR_RETURN(WeightRegion copy, Private(size_));
  run(Units(size_), [&](int64_t unit) {
    const int64_t begin = unit * kHuge;
    std::memcpy(copy.data_ + begin, data_ + begin,
                static_cast<size_t>(std::min(kHuge, size_ - begin)));
  });
  const auto size = static_cast<size_t>(size_);
  if (mremap(copy.data_, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, data_) == MAP_FAILED) {
    return ResourceExhausted("a copy of the weights cannot be moved to their place: {}",
                             ErrnoText(errno));
  }
  copy.data_ = nullptr;  // it has moved
  return absl::OkStatus();
}

void WeightRegion::Protect() { mprotect(data_, static_cast<size_t>(size_), PROT_READ); }

bool PrivateMemoryMayBeHuge() {
  std::ifstream setting("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string words;
  return std::getline(setting, words) && words.find("[never]") == std::string::npos;
}

}  // namespace tandem::kv_store
