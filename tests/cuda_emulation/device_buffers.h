#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace tandem::cuda_emulation {

/// What memory holds that was never written: NaN as float16, bfloat16, float32 and float64, and a
/// large number as an integer.
inline constexpr uint32_t kPoison = 0x7fc1ffc1;

/// kMapped: another process's, as a GPU of this one sees it.
enum class BufferKind { kDevice, kPinned, kMapped };

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

/// A buffer that other processes may map, as they hear of it.
struct SharedBuffer {
  int32_t process = 0;
  int32_t file = -1;  // of that process: all between the guards
  uint64_t inner_bytes = 0;
  uint64_t bytes = 0;
  int32_t gpu = 0;
};
/// From now on other processes may map it, and GPUs of this one touch it that may reach its GPU.
/// False if this is no buffer of a GPU.
bool ShareBuffer(void* memory, SharedBuffer& shared);
/// Maps what another process shares, for a GPU. Null if it is not there. FreeBuffer unmaps it.
void* MapBuffer(const SharedBuffer& shared, int gpu);
/// From now on a GPU reaches what is shared of another one. False: it did already.
bool LetReach(int gpu, int other);

/// Opens the memory that a GPU reaches. One at a time, or within another.
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
