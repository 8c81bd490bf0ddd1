#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "core/model/device_memory.h"

namespace tandem::core {

/// The memory of a CPU.
class HostMemory : public DeviceMemory {
 public:
  std::shared_ptr<std::byte> Allocate(int64_t bytes) override;
  /// On transparent huge pages where the system gives them.
  absl::StatusOr<std::shared_ptr<std::byte>> AllocateZeroed(int64_t bytes) override;
  /// The least of what the system calls available, what this process's control groups have left,
  /// and what it may still map (ulimit -v).
  absl::StatusOr<int64_t> AvailableBytes() const override;
  absl::Status CopyToHost(std::span<const CopyRun> runs) override;
  absl::Status CopyFromHost(std::span<const CopyRun> runs) override;
  absl::Status CopyWithin(std::byte* to, const std::byte* from, size_t bytes) override;
  DeviceMemory& host() override { return *this; }
  bool copies_beside() const override { return false; }
  absl::StatusOr<std::shared_ptr<DeviceCopy>> BeginCopy(CopyDirection direction,
                                                        std::span<const CopyRun> runs) override;
};

}  // namespace tandem::core
