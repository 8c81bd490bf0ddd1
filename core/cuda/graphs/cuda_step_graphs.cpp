#include "core/cuda/graphs/cuda_step_graphs.h"

#include <cuda_runtime.h>

#include <algorithm>

#include "core/cuda/kernels/launch.h"

namespace tandem::core {
namespace {

// A graph of a step takes some hundred KiB of the GPU's memory.
constexpr size_t kMostShapes = 128;

void Destroy(CUgraphExec_st*& graph) {
  // A GPU that failed has told so, and what it held ends with the process.
  if (graph != nullptr) static_cast<void>(cudaGraphExecDestroy(graph));
  graph = nullptr;
}

}  // namespace

CudaStepGraphs::~CudaStepGraphs() {
  for (auto& [shape, entry] : entries_) Destroy(entry.graph);
}

CudaStepGraphs::Mode CudaStepGraphs::ModeOf(const StepShape& shape, uint64_t allocations) {
  ++step_;
  const auto [found, is_new] = entries_.try_emplace(shape);
  current_ = &found->second;
  current_->last_step = step_;
  if (is_new) {
    if (entries_.size() > kMostShapes) DropOldest();
    return Mode::kEager;
  }
  if (current_->graph != nullptr && current_->allocations == allocations) return Mode::kReplay;
  Destroy(current_->graph);
  return Mode::kCapture;
}

void CudaStepGraphs::Launch(CUgraph_st* captured, uint64_t allocations, CudaStream stream) {
  Destroy(current_->graph);
  current_->allocations = allocations;
  const cudaError_t error = cudaGraphInstantiate(&current_->graph, captured, 0);
  static_cast<void>(cudaGraphDestroy(captured));
  CheckCuda(error, "cudaGraphInstantiate");
  Launch(stream);
}

void CudaStepGraphs::Launch(CudaStream stream) {
  CheckCuda(cudaGraphLaunch(current_->graph, stream), "cudaGraphLaunch");
}

void CudaStepGraphs::DropOldest() {
  const auto oldest = std::min_element(
      entries_.begin(), entries_.end(),
      [](const auto& a, const auto& b) { return a.second.last_step < b.second.last_step; });
  Destroy(oldest->second.graph);
  entries_.erase(oldest);
}

}  // namespace tandem::core
