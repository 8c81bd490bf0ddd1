#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "core/base/status.h"
#include "core/cpu/cpu_operations.h"
#include "core/model/operations.h"

/// The one place that knows which devices there are.
namespace tandem::core {

enum class DeviceKind { kCpu, kCuda };

/// The device of a name: "cpu", "cuda"; "auto" is a CPU, until CUDA is proven on GPUs
/// (docs/gpu.md). kUnimplemented, with what is missing, for a device that this build or this
/// machine does not have; kInvalidArgument for an unknown name.
absl::StatusOr<DeviceKind> ParseDevice(std::string_view name);

struct DeviceOptions {
  DeviceKind kind = DeviceKind::kCpu;
  CpuOptions cpu;  // of a CPU; its activations and threads are a GPU's host side, too
};

/// A rank's device, ready to pack weights. `config` must outlive it. kind: as ParseDevice gave it.
std::unique_ptr<Operations> MakeDevice(const DeviceOptions& options, const ModelConfig& config,
                                       const Shard& shard);

}  // namespace tandem::core
