#include "core/device/device.h"

#include "core/cuda/cuda_device.h"
#include "core/cuda/gpu_limits.h"
#include "core/cuda/nccl/cuda_nccl_link.h"
#include "core/cuda/peer/cuda_peer_link.h"
#include "core/model/device_status.h"
#include "core/system/host_name.h"

namespace tandem::core {

absl::StatusOr<DeviceKind> ParseDevice(std::string_view name) {
  if (name == "auto" || name == "cpu") return DeviceKind::kCpu;
  if (name == "cuda") return DeviceKind::kCuda;
  return InvalidArgument("--device {}: expected auto, cpu or cuda", name);
}

absl::StatusOr<std::vector<Gpu>> FindGpus(DeviceKind kind) {
  if (kind == DeviceKind::kCpu) return std::vector<Gpu>();
  CudaDriver driver = FindCudaDriver();
  if (!driver.gpus.empty()) return std::move(driver.gpus);
  return Unimplemented("--device cuda: host {} has no GPU to compute on ({}); use --device cpu",
                       HostName(), driver.problem);
}

std::string DriverVersion(DeviceKind kind) {
  return kind == DeviceKind::kCuda ? FindCudaDriver().version : "";
}

absl::StatusOr<GpuFigures> LookAtGpu(const Gpu& gpu, bool speed) {
  return WithDeviceFailures([&]() -> absl::StatusOr<GpuFigures> { return MeasureGpu(gpu, speed); });
}

absl::Status CheckLimits(DeviceKind kind, const ModelConfig& config, int64_t step_tokens) {
  return kind == DeviceKind::kCuda ? CheckGpuLimits(config, step_tokens) : absl::OkStatus();
}

absl::Status CheckExact(DeviceKind kind, bool exact) {
  if (exact) return absl::OkStatus();
  if (kind == DeviceKind::kCpu) {
    return Unimplemented("--no-exact: a CPU is always exact; leave it out, or use --device cuda");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Operations>> MakeDevice(const DeviceOptions& options,
                                                       const ModelConfig& config,
                                                       const Shard& shard) {
  using Made = absl::StatusOr<std::unique_ptr<Operations>>;
  if (options.kind == DeviceKind::kCpu) {
    return std::make_unique<CpuOperations>(config, shard, options.cpu);
  }
  return WithDeviceFailures([&]() -> Made {
    return MakeCudaOperations(config, shard,
                              {.activations = options.cpu.activations,
                               .threads = options.cpu.threads,
                               .gpu = options.gpu,
                               .exact = options.exact,
                               .graphs = options.graphs});
  });
}

absl::StatusOr<std::unique_ptr<DeviceLinker>> OpenLinker(DeviceKind kind) {
  if (kind == DeviceKind::kCpu) return std::unique_ptr<DeviceLinker>();
  return OpenNccl();
}

absl::StatusOr<std::unique_ptr<DeviceLinker>> OpenPeerLinker(DeviceKind kind) {
  if (kind == DeviceKind::kCpu) return std::unique_ptr<DeviceLinker>();
  return OpenPeers();
}

}  // namespace tandem::core
