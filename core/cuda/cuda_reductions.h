#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "core/cuda/cuda_memory.h"
#include "core/cuda/kernels/elementwise_kernels.h"
#include "core/model/collective.h"

namespace tandem::core {

/// The reductions of steps that were put into the GPU's stream, and how the host waits for them:
/// those of one step, or of two where the second was begun before the first was awaited.
///
/// The kernel that takes a reduction's sums says so in pinned memory, so that a host that waits in
/// vain knows which one the GPU has come to. Thread safety: one thread calls.
class CudaReductions {
 public:
  /// `memory` must outlive it.
  explicit CudaReductions(CudaMemory& memory);

  /// Begins a step. beside: the one before is still awaited (AwaitOldest).
  void BeginStep(bool beside = false);
  /// Puts into the stream that kernels of this step come now. Before its first reduction.
  void MarkStep();
  /// A reduction is in the stream. `collective` must live as long as the step is awaited.
  void Put(Collective& collective, const StepPhase& phase);
  /// Where the kernel that takes the sums of the last Put says so; null if that had no link.
  ReductionMark mark();
  /// Copies from the device, after all that is in the stream; no step is begun beside another.
  /// Throws DeviceFailure, also where other ranks are given up.
  void CopyToHost(std::span<const CopyRun> runs);
  /// Waits until the reductions of the oldest step are over, as done() says, or until() says so.
  /// Throws as CopyToHost.
  void AwaitOldest(absl::FunctionRef<bool()> done, absl::FunctionRef<bool()> until);
  /// The oldest step is over, where another one has begun.
  void EndOldest();

 private:
  struct Step {
    uint32_t number = 0;
    Collective* collective = nullptr;
    std::vector<StepPhase> phases;  // of its reductions
    size_t waited = 0;              // of them, that the host has waited for

    bool awaits() const { return collective != nullptr && waited < phases.size(); }
  };
  /// Reductions whose sums the GPU has taken.
  size_t TakenOf(const Step& step);

  CudaMemory& memory_;
  PinnedBytes done_;  // uint64: reductions of a step whose sums the GPU has taken, 32 bits; its
                      // number
  std::deque<Step> steps_;
  uint32_t number_ = 0;
};

}  // namespace tandem::core
