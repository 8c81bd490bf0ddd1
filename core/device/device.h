#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "core/base/status.h"
#include "core/cpu/cpu_operations.h"
#include "core/model/operations.h"

/// The one place that knows which devices there are.
namespace tandem::core {

enum class DeviceKind { kCpu };

/// The device of a name: "cpu"; "auto" is the best that this build and this machine have.
/// kUnimplemented for a device that this build cannot use, kInvalidArgument for an unknown name.
absl::StatusOr<DeviceKind> ParseDevice(std::string_view name);

struct DeviceOptions {
  DeviceKind kind = DeviceKind::kCpu;
  CpuOptions cpu;  // of a CPU
};

/// A rank's device, ready to pack weights. `config` must outlive it.
std::unique_ptr<Operations> MakeDevice(const DeviceOptions& options, const ModelConfig& config,
                                       const Shard& shard);

}  // namespace tandem::core
