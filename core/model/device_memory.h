#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "core/base/status.h"

namespace tandem::core {

/// Bytes that stand together on a device and in host memory.
struct CopyRun {
  std::byte* device = nullptr;
  std::byte* host = nullptr;
  size_t bytes = 0;
};

/// The memory of a device, and how bytes cross its border.
///
/// Implementations: HostMemory, where a copy is a memcpy; CUDA, where copies go through pinned
/// staging on a stream of their own. Thread safety: all methods. Memory is freed with the last copy
/// of its pointer. Errors of a device that failed are kUnavailable.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;

  /// 64-byte aligned memory for a step's rows; its content is not set. Throws DeviceFailure.
  virtual std::shared_ptr<std::byte> Allocate(int64_t bytes) = 0;
  /// 64-byte aligned zeroed memory that is held for long, such as a page pool. kResourceExhausted
  /// if it cannot be had.
  virtual absl::StatusOr<std::shared_ptr<std::byte>> AllocateZeroed(int64_t bytes) = 0;
  /// Bytes that could still be had.
  virtual absl::StatusOr<int64_t> AvailableBytes() const = 0;

  /// Copies are done when these return. What was enqueued on the device before comes first.
  [[nodiscard]] virtual absl::Status CopyToHost(std::span<const CopyRun> runs) = 0;
  [[nodiscard]] virtual absl::Status CopyFromHost(std::span<const CopyRun> runs) = 0;
  [[nodiscard]] virtual absl::Status CopyWithin(std::byte* to, const std::byte* from,
                                                size_t bytes) = 0;
};

}  // namespace tandem::core
