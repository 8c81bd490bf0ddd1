#include "core/base/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <limits>

#include "core/base/errno_text.h"

namespace tandem::core {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kHugePage = int64_t{2} << 20;
// Small allocations share a chunk; large ones get their own, so that little is left over.
constexpr int64_t kChunkBytes = int64_t{16} << 20;

int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

Arena::~Arena() {
  for (const Chunk& chunk : chunks_) munmap(chunk.data, static_cast<size_t>(chunk.size));
}

Arena::Arena(Arena&& other) noexcept
    : purpose_(other.purpose_), chunks_(std::move(other.chunks_)), allocated_(other.allocated_) {
  other.chunks_.clear();
  other.allocated_ = 0;
}

absl::StatusOr<std::byte*> Arena::Allocate(int64_t bytes) {
  if (bytes < 0 || bytes > std::numeric_limits<int64_t>::max() - 2 * kHugePage) {
    return InvalidArgument("memory for {}: {} bytes asked for, which is no size", purpose_, bytes);
  }
  const int64_t needed = RoundUp(std::max<int64_t>(bytes, 1), kAlignment);
  for (Chunk& chunk : chunks_) {
    if (chunk.size - chunk.used < needed) continue;
    std::byte* data = chunk.data + chunk.used;
    chunk.used += needed;
    allocated_ += needed;
    return data;
  }

  // A mapping is aligned to small pages only; the surplus before and after the huge pages goes
  // back.
  const int64_t size = RoundUp(std::max(needed, kChunkBytes), kHugePage);
  const int64_t mapped = size + kHugePage;
  void* address = mmap(nullptr, static_cast<size_t>(mapped), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) {
    return ResourceExhausted(
        "memory for {}: {} MiB more than the {} MiB held cannot be had ({}); use more ranks "
        "or a smaller model, or raise the limit (ulimit -v, cgroup)",
        purpose_, size >> 20, allocated_ >> 20, ErrnoText(errno));
  }
  auto* begin = static_cast<std::byte*>(address);
  const auto misaligned =
      static_cast<int64_t>(reinterpret_cast<uintptr_t>(begin) % static_cast<uintptr_t>(kHugePage));
  const int64_t before = misaligned == 0 ? 0 : kHugePage - misaligned;
  const int64_t after = kHugePage - before;
  if (before > 0) munmap(begin, static_cast<size_t>(before));
  if (after > 0) munmap(begin + before + size, static_cast<size_t>(after));
  std::byte* data = begin + before;
  // Only a wish: without huge pages everything works, slower.
  madvise(data, static_cast<size_t>(size), MADV_HUGEPAGE);
  chunks_.push_back({data, size, needed});
  allocated_ += needed;
  return data;
}

absl::StatusOr<PackedMemory::Place> Arena::Take(std::string_view /*name*/, int64_t bytes) {
  TANDEM_ASSIGN_OR_RETURN(std::byte * data, Allocate(bytes));
  return Place{.data = data};
}

}  // namespace tandem::core
