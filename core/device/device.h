#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/cpu/cpu_operations.h"
#include "core/cuda/cuda_driver.h"
#include "core/cuda/kernels/gpu.h"
#include "core/model/device_link.h"
#include "core/model/operations.h"

/// The one place that knows which devices there are.
namespace tandem::core {

enum class DeviceKind { kCpu, kCuda };

/// The device of a name: "cpu", "cuda"; "auto" is a CPU, until CUDA is proven on GPUs
/// (docs/gpu.md). kInvalidArgument for an unknown name.
absl::StatusOr<DeviceKind> ParseDevice(std::string_view name);

/// The GPUs of this host that a device of this kind can be; none for a CPU. kUnimplemented, with
/// host and reason, where there is none that it needs.
absl::StatusOr<std::vector<Gpu>> FindGpus(DeviceKind kind);

/// The GPU driver of this host, for messages; empty without one.
std::string DriverVersion(DeviceKind kind);

/// What a GPU of FindGpus has and does now; `speed`: that too, in a few milliseconds. kUnavailable
/// if it fails.
absl::StatusOr<GpuFigures> LookAtGpu(const Gpu& gpu, bool speed);

/// Whether a device of this kind has all operations of a model, for steps of so many tokens.
/// kUnimplemented names what it does not have.
absl::Status CheckLimits(DeviceKind kind, const ModelConfig& config, int64_t step_tokens);

/// Whether a device of this kind computes in this mode: exact, with the bits of all others, or
/// fast. kUnimplemented says why it does not.
absl::Status CheckExact(DeviceKind kind, bool exact);

struct DeviceOptions {
  DeviceKind kind = DeviceKind::kCpu;
  CpuOptions cpu;      // of a CPU; its activations and threads are a GPU's host side, too
  Gpu gpu = {};        // of FindGpus
  bool exact = true;   // as CheckExact allows it
  bool graphs = true;  // a GPU's: steps that come again are one launch
};

/// A rank's device, ready to pack weights. `config` must outlive it. kUnavailable if a GPU fails.
absl::StatusOr<std::unique_ptr<Operations>> MakeDevice(const DeviceOptions& options,
                                                       const ModelConfig& config,
                                                       const Shard& shard);

/// What joins devices of this kind over all ranks: NCCL for GPUs. CPUs have none: null.
/// kUnavailable says what is missing.
absl::StatusOr<std::unique_ptr<DeviceLinker>> OpenLinker(DeviceKind kind);

/// The same for devices of one host, by memory that all of them map.
absl::StatusOr<std::unique_ptr<DeviceLinker>> OpenPeerLinker(DeviceKind kind);

}  // namespace tandem::core
