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
/// and the thread if a kernel's. The host cannot touch memory of the device, but while a
/// DeviceAtWork lives. Thread safety: all functions.
///
/// Null if there is no memory.
void* AllocateBuffer(size_t bytes, BufferKind kind);
/// False if this is no buffer.
bool FreeBuffer(void* memory);

/// Opens the memory of the device. One at a time, or within another.
class DeviceAtWork {
 public:
  DeviceAtWork();
  ~DeviceAtWork();
  DeviceAtWork(const DeviceAtWork&) = delete;
  DeviceAtWork& operator=(const DeviceAtWork&) = delete;
};

}  // namespace tandem::cuda_emulation
