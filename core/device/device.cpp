#include "core/device/device.h"

#include "core/cuda/cuda_device.h"
#include "core/cuda/cuda_driver.h"

namespace tandem::core {

absl::StatusOr<DeviceKind> ParseDevice(std::string_view name) {
  if (name == "auto" || name == "cpu") return DeviceKind::kCpu;
  if (name == "cuda") {
    const CudaDriver driver = FindCudaDriver();
    if (driver.devices > 0) return DeviceKind::kCuda;
    return Unimplemented("--device cuda: there is no GPU to compute on ({}); use --device cpu",
                         driver.problem);
  }
  return InvalidArgument("--device {}: expected auto, cpu or cuda", name);
}

std::unique_ptr<Operations> MakeDevice(const DeviceOptions& options, const ModelConfig& config,
                                       const Shard& shard) {
  switch (options.kind) {
    case DeviceKind::kCpu:
      return std::make_unique<CpuOperations>(config, shard, options.cpu);
    case DeviceKind::kCuda:
      return MakeCudaOperations(
          config, shard, {.activations = options.cpu.activations, .threads = options.cpu.threads});
  }
  return nullptr;
}

}  // namespace tandem::core
