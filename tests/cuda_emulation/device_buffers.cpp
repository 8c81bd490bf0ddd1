#include "tests/cuda_emulation/device_buffers.h"

#include <signal.h>
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

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

  std::byte* left_over() const { return data + bytes; }
  std::byte* end_guard() const { return mapped + mapped_bytes - kPage; }
  /// What lies between the guards.
  void Open(bool open) const {
    const size_t inner = mapped_bytes - 2 * kPage;
    if (inner == 0) return;
    if (mprotect(mapped + kPage, inner, open ? PROT_READ | PROT_WRITE : PROT_NONE) != 0) {
      Fail("mprotect failed");
    }
  }
};

struct Buffers {
  std::mutex mutex;
  std::map<const void*, Buffer> by_end;  // of what is mapped
  std::map<int, int> at_work;            // DeviceAtWork that live, of each GPU
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
  Poison(buffer.mapped + kPage, buffer.mapped_bytes - 2 * kPage);
  Buffers& all = AllBuffers();
  const std::lock_guard lock(all.mutex);
  if (kind == BufferKind::kDevice && all.at_work[gpu] == 0) buffer.Open(false);
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

DeviceAtWork::DeviceAtWork(int gpu) : gpu_(gpu) {
  Buffers& all = AllBuffers();
  const std::lock_guard lock(all.mutex);
  if (all.at_work[gpu_]++ > 0) return;
  for (const auto& [end, buffer] : all.by_end) {
    if (buffer.kind == BufferKind::kDevice && buffer.gpu == gpu_) buffer.Open(true);
  }
}

DeviceAtWork::~DeviceAtWork() {
  Buffers& all = AllBuffers();
  const std::lock_guard lock(all.mutex);
  if (--all.at_work[gpu_] > 0) return;
  for (const auto& [end, buffer] : all.by_end) {
    if (buffer.kind == BufferKind::kDevice && buffer.gpu == gpu_) buffer.Open(false);
  }
}

}  // namespace tandem::cuda_emulation
