#pragma once

#include <memory>

#include "core/base/status.h"
#include "core/model/device_link.h"

namespace tandem::core {

/// Joins the GPUs of CudaOperations whose ranks are on one host, at most kMostPeers, by memory that
/// all of them map. Each reduction is one kernel (peer_kernels.h). Ranks that share a GPU must be
/// processes of their own: CUDA lets a thread that frees memory wait for all kernels of its process
/// there, and so for those that wait for it. kUnavailable in a build without
/// CUDA. Thread safety: any thread.
absl::StatusOr<std::unique_ptr<DeviceLinker>> OpenPeers();

}  // namespace tandem::core
