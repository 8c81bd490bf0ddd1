#include "core/device/device.h"

#include "core/cuda/cuda_driver.h"

namespace tandem::core {

absl::StatusOr<DeviceKind> ParseDevice(std::string_view name) {
  if (name == "auto" || name == "cpu") return DeviceKind::kCpu;
  if (name == "cuda") {
    const CudaDriver driver = FindCudaDriver();
    return Unimplemented(
        "--device cuda: this version computes on CPUs only ({}); use --device cpu (or auto)",
        driver.devices > 0 ? fmt::format("{} CUDA devices are here", driver.devices)
                           : driver.problem);
  }
  return InvalidArgument("--device {}: expected auto, cpu or cuda", name);
}

std::unique_ptr<Operations> MakeDevice(const DeviceOptions& options, const ModelConfig& config,
                                       const Shard& shard) {
  switch (options.kind) {
    case DeviceKind::kCpu:
      return std::make_unique<CpuOperations>(config, shard, options.cpu);
  }
  return nullptr;
}

}  // namespace tandem::core
