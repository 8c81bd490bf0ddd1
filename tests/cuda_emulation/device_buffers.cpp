#include "tests/cuda_emulation/device_buffers.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "fmt/format.h"
#include "tests/cuda_emulation/block.h"

namespace tandem::cuda_emulation {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kAlignment = 64;

struct Buffer {
  BufferKind kind = BufferKind::kDevice;
  int gpu = 0;
  std::byte* mapped = nullptr;  // guard page, pages, guard page
  size_t mapped_bytes = 0;
  std::byte* data = nullptr;
  size_t bytes = 0;
  int file = -1;  // of what is shared

  std::byte* inner() const { return mapped + kPage; }
  size_t inner_bytes() const { return mapped_bytes - 2 * kPage; }
  std::byte* left_over() const { return data + bytes; }
  std::byte* end_guard() const { return mapped + mapped_bytes - kPage; }
  /// What lies between the guards.
  void Open(bool open) const {
    if (inner_bytes() == 0) return;
    if (mprotect(inner(), inner_bytes(), open ? PROT_READ | PROT_WRITE : PROT_NONE) != 0) {
      Fail("mprotect failed");
    }
  }
};

struct Buffers {
  std::mutex mutex;
  std::map<const void*, Buffer> by_end;  // of what is mapped
  std::map<int, int> at_work;            // DeviceAtWork that live, of each GPU
  std::set<std::pair<int, int>> reach;   // GPUs that touch what another one shares

  bool Reaches(int gpu, const Buffer& buffer) const {
    if (buffer.kind == BufferKind::kPinned) return false;
    return buffer.gpu == gpu || (buffer.file >= 0 && reach.contains({gpu, buffer.gpu}));
  }
  bool IsOpen(const Buffer& buffer) const {
    return std::any_of(at_work.begin(), at_work.end(), [&](const auto& work) {
      return work.second > 0 && Reaches(work.first, buffer);
    });
  }
};

Buffers& AllBuffers() {
  static auto* const buffers = new Buffers;  // also for what ends after main
  return *buffers;
}

void Poison(std::byte* from, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) {
    from[i] = static_cast<std::byte>(kPoison >> (reinterpret_cast<uintptr_t>(from + i) % 4 * 8));
  }
}

/// What is known of an address that faulted.
std::string Describe(const std::byte* address) {
  const std::map<const void*, Buffer>& by_end = AllBuffers().by_end;
  const auto found = by_end.upper_bound(address);
  if (found == by_end.end() || address < found->second.mapped) {
    return fmt::format("access of {}, which is in no buffer of the device",
                       static_cast<const void*>(address));
  }
  const Buffer& buffer = found->second;
  if (address < buffer.data) {
    return fmt::format("access {} bytes before the beginning of a buffer of {} bytes",
                       buffer.data - address, buffer.bytes);
  }
  if (address < buffer.left_over()) {
    return fmt::format("access of byte {} of a buffer of {} bytes", address - buffer.data,
                       buffer.bytes);
  }
  return fmt::format("access {} bytes behind the end of a buffer of {} bytes",
                     address - buffer.left_over(), buffer.bytes);
}

void OnFault(int signal, siginfo_t* info, void*) {
  const auto* address = static_cast<const std::byte*>(info->si_addr);
  if (Block::CurrentOrNull() != nullptr) Fail(Describe(address));
  const auto& by_end = AllBuffers().by_end;
  const auto found = by_end.upper_bound(address);
  if (found != by_end.end() && address >= found->second.mapped) {
    Fail("the host touches memory of the device: " + Describe(address));
  }
  ::signal(signal, SIG_DFL);  // nothing of ours: it ends the process as it always does
}

void CatchFaults() {
  static const bool installed = [] {
    struct sigaction action = {};
    action.sa_sigaction = OnFault;
    action.sa_flags = SA_SIGINFO;
    sigemptyset(&action.sa_mask);
    return sigaction(SIGSEGV, &action, nullptr) == 0 && sigaction(SIGBUS, &action, nullptr) == 0;
  }();
  if (!installed) Fail("the handler of faults could not be installed");
}

}  // namespace

void* AllocateBuffer(size_t bytes, BufferKind kind, int gpu) {
  CatchFaults();
  const size_t room = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  Buffer buffer;
  buffer.kind = kind;
  buffer.gpu = gpu;
  buffer.bytes = bytes;
  buffer.mapped_bytes = (room + kPage - 1) / kPage * kPage + 2 * kPage;
  void* mapped = mmap(nullptr, buffer.mapped_bytes, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  buffer.mapped = static_cast<std::byte*>(mapped);
  buffer.data = buffer.end_guard() - room;
  buffer.Open(true);
  Poison(buffer.inner(), buffer.inner_bytes());
  Buffers& all = AllBuffers();
  const std::lock_guard lock(all.mutex);
  if (kind == BufferKind::kDevice && !all.IsOpen(buffer)) buffer.Open(false);
  all.by_end[buffer.mapped + buffer.mapped_bytes] = buffer;
  return buffer.data;
}

size_t AllocatedBytes(int gpu) {
  Buffers& all = AllBuffers();
  const std::lock_guard lock(all.mutex);
  size_t bytes = 0;
  for (const auto& [end, buffer] : all.by_end) {
    if (buffer.kind == BufferKind::kDevice && buffer.gpu == gpu) bytes += buffer.bytes;
  }
  return bytes;
}

bool FreeBuffer(void* memory) {
  Buffers& all = AllBuffers();
  const std::lock_guard lock(all.mutex);
  const auto found = all.by_end.upper_bound(memory);
  if (found == all.by_end.end() || found->second.data != memory) return false;
  const Buffer& buffer = found->second;
  buffer.Open(true);
  if (buffer.file >= 0) close(buffer.file);
  for (const std::byte* at = buffer.left_over(); at < buffer.end_guard(); ++at) {
    const auto expected =
        static_cast<std::byte>(kPoison >> (reinterpret_cast<uintptr_t>(at) % 4 * 8));
    if (*at != expected) {
      Fail(fmt::format("a kernel wrote {} bytes behind the end of a buffer of {} bytes",
                       at - buffer.left_over(), buffer.bytes));
    }
  }
  munmap(buffer.mapped, buffer.mapped_bytes);
  all.by_end.erase(found);
  return true;
}

bool ShareBuffer(void* memory, SharedBuffer& shared) {
  Buffers& all = AllBuffers();
  const std::lock_guard lock(all.mutex);
  const auto found = all.by_end.upper_bound(memory);
  if (found == all.by_end.end() || found->second.data != memory ||
      found->second.kind != BufferKind::kDevice) {
    return false;
  }
  Buffer& buffer = found->second;
  if (buffer.file < 0) {
    const int file = memfd_create("emulated GPU memory", MFD_CLOEXEC);
    const auto size = static_cast<ssize_t>(buffer.inner_bytes());
    buffer.Open(true);
    if (file < 0 || write(file, buffer.inner(), buffer.inner_bytes()) != size ||
        mmap(buffer.inner(), buffer.inner_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
             file, 0) == MAP_FAILED) {
      Fail("memory of a GPU cannot be shared");
    }
    buffer.file = file;
    buffer.Open(all.IsOpen(buffer));
  }
  shared = {static_cast<int32_t>(getpid()), buffer.file, buffer.inner_bytes(), buffer.bytes,
            buffer.gpu};
  return true;
}

void* MapBuffer(const SharedBuffer& shared, int gpu) {
  const std::string path = fmt::format("/proc/{}/fd/{}", shared.process, shared.file);
  const int file = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) return nullptr;
  Buffer buffer;
  buffer.kind = BufferKind::kMapped;
  buffer.gpu = gpu;
  buffer.bytes = shared.bytes;
  buffer.mapped_bytes = shared.inner_bytes + 2 * kPage;
  buffer.file = file;
  void* mapped = mmap(nullptr, buffer.mapped_bytes, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  buffer.mapped = static_cast<std::byte*>(mapped);
  buffer.data = buffer.end_guard() - (shared.bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (mmap(buffer.inner(), buffer.inner_bytes(), PROT_NONE, MAP_SHARED | MAP_FIXED, file, 0) ==
      MAP_FAILED) {
    return nullptr;
  }
  Buffers& all = AllBuffers();
  const std::lock_guard lock(all.mutex);
  buffer.Open(all.IsOpen(buffer));
  all.by_end[buffer.mapped + buffer.mapped_bytes] = buffer;
  return buffer.data;
}

bool LetReach(int gpu, int other) {
  Buffers& all = AllBuffers();
  const std::lock_guard lock(all.mutex);
  return all.reach.insert({gpu, other}).second;
}

DeviceAtWork::DeviceAtWork(int gpu) : gpu_(gpu) {
  Buffers& all = AllBuffers();
  const std::lock_guard lock(all.mutex);
  if (all.at_work[gpu_]++ > 0) return;
  for (const auto& [end, buffer] : all.by_end) {
    if (all.Reaches(gpu_, buffer)) buffer.Open(true);
  }
}

DeviceAtWork::~DeviceAtWork() {
  Buffers& all = AllBuffers();
  const std::lock_guard lock(all.mutex);
  if (--all.at_work[gpu_] > 0) return;
  for (const auto& [end, buffer] : all.by_end) {
    if (all.Reaches(gpu_, buffer) && !all.IsOpen(buffer)) buffer.Open(false);
  }
}

}  // namespace tandem::cuda_emulation
