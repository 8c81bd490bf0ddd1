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

/// Copies that go on while the device computes. The memory must outlive it. Thread safety: all
/// methods.
class DeviceCopy {
 public:
  virtual ~DeviceCopy() = default;
  /// Waits until they are done. kUnavailable if the device failed.
  [[nodiscard]] virtual absl::Status Wait() = 0;
  /// What is enqueued on the device from now on comes after them. Called by who enqueues.
  [[nodiscard]] virtual absl::Status ComeFirst() = 0;
};

enum class CopyDirection : uint8_t { kToHost, kFromHost };

/// The memory of a device, and how bytes cross its border.
///
/// Implementations: HostMemory, where a copy is a memcpy; CUDA, where copies go through pinned
/// memory on streams of their own. Thread safety: all methods. Memory is freed with the last copy
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

  /// The host memory that BeginCopy copies to and from.
  virtual DeviceMemory& host() = 0;
  /// Whether the device computes while copies of BeginCopy go on.
  virtual bool copies_beside() const = 0;
  /// Begins copies between the device and memory of host(), and does not wait. They come after what
  /// was enqueued on the device before, and after the copies of the other direction that were begun
  /// before; what is enqueued later may come before them (DeviceCopy::ComeFirst). Nobody touches
  /// the memory of host() until they are done. Null: they are done already.
  virtual absl::StatusOr<std::shared_ptr<DeviceCopy>> BeginCopy(CopyDirection direction,
                                                                std::span<const CopyRun> runs) = 0;
};

}  // namespace tandem::core
