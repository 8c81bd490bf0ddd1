#include "core/cuda/cuda_reductions.h"

#include <algorithm>
#include <atomic>
#include <thread>

#include "core/base/check.h"
#include "core/model/device_status.h"

namespace tandem::core {

CudaReductions::CudaReductions(CudaMemory& memory) : memory_(memory) {
  UseGpu(memory.gpu());
  done_ = AllocatePinned(sizeof(uint64_t));
  *reinterpret_cast<uint64_t*>(done_.get()) = 0;
  BeginStep();
}

void CudaReductions::BeginStep(bool beside) {
  if (!beside) steps_.clear();
  steps_.push_back({.number = ++number_, .collective = nullptr, .phases = {}, .waited = 0});
}

void CudaReductions::MarkStep() {
  LaunchMarkStep(memory_.stream(), steps_.back().number, reinterpret_cast<uint64_t*>(done_.get()));
}

void CudaReductions::Put(Collective& collective, const StepPhase& phase) {
  steps_.back().collective = &collective;
  steps_.back().phases.push_back(phase);
}

ReductionMark CudaReductions::mark() {
  const Step& step = steps_.back();
  if (step.collective == nullptr) return {};
  return {reinterpret_cast<uint32_t*>(done_.get()), static_cast<uint32_t>(step.phases.size())};
}

size_t CudaReductions::TakenOf(const Step& step) {
  std::atomic_ref<uint64_t> word(*reinterpret_cast<uint64_t*>(done_.get()));
  const uint64_t told = word.load(std::memory_order_relaxed);
  // Another number: the GPU has not come to the step.
  if (static_cast<uint32_t>(told >> 32) != step.number) return 0;
  return std::min<size_t>(static_cast<uint32_t>(told), step.phases.size());
}

void CudaReductions::CopyToHost(std::span<const CopyRun> runs) {
  TANDEM_CHECK(steps_.size() == 1, "a step was begun beside another");
  if (!steps_.front().awaits()) return ThrowDeviceFailure(memory_.CopyToHost(runs));
  ThrowDeviceFailure(memory_.CopyToHost(runs, [&](absl::FunctionRef<bool()> done) {
    return WithDeviceFailures([&] { AwaitOldest(done, [] { return false; }); });
  }));
}

void CudaReductions::AwaitOldest(absl::FunctionRef<bool()> done, absl::FunctionRef<bool()> until) {
  // until() may begin a step, which leaves those that there are where they are.
  Step& step = steps_.front();
  if (!step.awaits()) {
    while (!until() && !done()) std::this_thread::yield();
    return;
  }
  bool all_done = false;
  size_t seen = step.waited;
  const auto place = [&]() -> DevicePlace {
    seen = all_done ? step.phases.size() : std::max(seen, TakenOf(step));
    return {seen - step.waited, step.phases[std::min(seen, step.phases.size() - 1)]};
  };
  const auto waited = [&] {
    if (until()) return true;
    return all_done = done();
  };
  ThrowDeviceFailure(step.collective->WaitForDevice(waited, place));
  step.waited = seen;
}

void CudaReductions::EndOldest() {
  if (steps_.size() > 1) steps_.pop_front();
}

}  // namespace tandem::core
