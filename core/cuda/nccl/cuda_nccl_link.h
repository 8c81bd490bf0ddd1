#pragma once

#include <memory>

#include "core/base/status.h"
#include "core/model/device_link.h"

namespace tandem::core {

/// NCCL 2.14 or later, as the dynamic linker finds it, open until the program ends. It joins the
/// GPUs of CudaOperations. kUnavailable says what is missing and how to get it; a build without
/// CUDA has none. Thread safety: any thread.
absl::StatusOr<std::unique_ptr<DeviceLinker>> OpenNccl();

}  // namespace tandem::core
