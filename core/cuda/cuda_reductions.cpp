#include "core/cuda/cuda_reductions.h"

#include <algorithm>
#include <atomic>

#include "core/model/device_status.h"

namespace tandem::core {

CudaReductions::CudaReductions(CudaMemory& memory) : memory_(memory) {
  UseGpu(memory.gpu());
  done_ = AllocatePinned(sizeof(uint32_t));
  BeginStep();
}

void CudaReductions::BeginStep() {
  collective_ = nullptr;
  phases_.clear();
  waited_ = 0;
  *reinterpret_cast<uint32_t*>(done_.get()) = 0;
}

void CudaReductions::Put(Collective& collective, const StepPhase& phase) {
  collective_ = &collective;
  phases_.push_back(phase);
}

ReductionMark CudaReductions::mark() {
  if (collective_ == nullptr) return {};
  return {reinterpret_cast<uint32_t*>(done_.get()), static_cast<uint32_t>(phases_.size())};
}

void CudaReductions::CopyToHost(std::span<const CopyRun> runs) {
  if (collective_ == nullptr || waited_ == phases_.size()) {
    return ThrowDeviceFailure(memory_.CopyToHost(runs));
  }
  bool all_done = false;
  const auto place = [&]() -> DevicePlace {
    std::atomic_ref<uint32_t> word(*reinterpret_cast<uint32_t*>(done_.get()));
    const size_t told = word.load(std::memory_order_relaxed);
    const size_t done = all_done ? phases_.size() : std::max(told, waited_);
    return {done - waited_, phases_[std::min(done, phases_.size() - 1)]};
  };
  ThrowDeviceFailure(memory_.CopyToHost(runs, [&](absl::FunctionRef<bool()> done) {
    return collective_->WaitForDevice([&] { return all_done = done(); }, place);
  }));
  waited_ = phases_.size();
}

}  // namespace tandem::core
