#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/cuda/cuda_memory.h"
#include "core/cuda/kernels/elementwise_kernels.h"
#include "core/model/collective.h"

namespace tandem::core {

/// The reductions of a step that were put into the GPU's stream, and how the host waits for them.
///
/// The kernel that takes a reduction's sums says so in pinned memory, so that a host that waits in
/// vain knows which one the GPU has come to. Thread safety: one thread calls.
class CudaReductions {
 public:
  /// `memory` must outlive it.
  explicit CudaReductions(CudaMemory& memory);

  /// Begins a step. Nothing of the step before is on the GPU any more where a link is used, since
  /// the host has waited for it.
  void BeginStep();
  /// A reduction is in the stream. `collective` must live until the next BeginStep.
  void Put(Collective& collective, const StepPhase& phase);
  /// Where the kernel that takes the sums of the last Put says so; null if that had no link.
  ReductionMark mark();
  /// Copies from the device, after all that is in the stream. Throws DeviceFailure, also where
  /// other ranks are given up.
  void CopyToHost(std::span<const CopyRun> runs);

 private:
  CudaMemory& memory_;
  PinnedBytes done_;  // uint32: reductions of the step whose sums the GPU has taken
  Collective* collective_ = nullptr;
  std::vector<StepPhase> phases_;  // of the step's reductions
  size_t waited_ = 0;              // of them, that the host has waited for
};

}  // namespace tandem::core
