#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace tandem::cuda_emulation {

/// What memory holds that was never written: NaN as float16, bfloat16, float32 and float64, and a
/// large number as an integer.
inline constexpr uint32_t kPoison = 0x7fc1ffc1;

enum class BufferKind { kDevice, kPinned };

/// Memory between two pages that cannot be touched, right-aligned: the first byte behind it faults,
/// but for up to 63 bytes that make its beginning 64-byte aligned. These are checked when it is
/// freed. It is filled with kPoison. A fault ends the process with a report that names the buffer,
/// and the thread if a kernel's. Nobody can touch memory of a GPU, but while a DeviceAtWork of that
/// GPU lives. Thread safety: all functions.
///
/// Null if there is no memory. gpu: whose it is.
void* AllocateBuffer(size_t bytes, BufferKind kind, int gpu);
/// Bytes of a GPU's memory in buffers.
size_t AllocatedBytes(int gpu);
/// False if this is no buffer.
bool FreeBuffer(void* memory);

/// Opens the memory of a GPU. One at a time, or within another.
class DeviceAtWork {
 public:
  explicit DeviceAtWork(int gpu);
  ~DeviceAtWork();
  DeviceAtWork(const DeviceAtWork&) = delete;
  DeviceAtWork& operator=(const DeviceAtWork&) = delete;

 private:
  const int gpu_;
};

}  // namespace tandem::cuda_emulation
