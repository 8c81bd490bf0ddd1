#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "core/cuda/kernels/cuda_stream.h"

struct CUgraph_st;
struct CUgraphExec_st;

namespace tandem::core {

/// What the kernels of a step and their arguments follow from, but for what the host uploads: steps
/// of one shape are one graph.
struct StepShape {
  int64_t tokens = 0;
  int64_t logit_rows = 0;
  bool neighbours = false;  // whether tokens of one sequence follow one another
  bool kept = false;        // whether some tokens are what was kept (KeptToken)
  /// First chunk and chunks of attention, for each window that layers have.
  std::vector<std::pair<int64_t, int64_t>> chunks;

  auto operator<=>(const StepShape&) const = default;
};

/// The graphs of steps that come again: the first step of a shape is put into the stream kernel by
/// kernel, the second one is captured, and those after it are one launch. Source: CUDA C++
/// Programming Guide 13.0, "CUDA Graphs". Thread safety: one thread calls. Failures of CUDA throw
/// DeviceFailure.
class CudaStepGraphs {
 public:
  CudaStepGraphs() = default;
  ~CudaStepGraphs();
  CudaStepGraphs(const CudaStepGraphs&) = delete;
  CudaStepGraphs& operator=(const CudaStepGraphs&) = delete;

  enum class Mode { kEager, kCapture, kReplay };
  /// How a step of this shape is done. allocations: how often memory was allocated; where that has
  /// changed since a graph was captured, it may name memory that is gone, and is dropped.
  Mode ModeOf(const StepShape& shape, uint64_t allocations);

  /// Takes what was captured, for the shape of the last ModeOf, and launches it.
  void Launch(CUgraph_st* captured, uint64_t allocations, CudaStream stream);
  /// Launches the graph of the shape of the last ModeOf, which was kReplay.
  void Launch(CudaStream stream);

 private:
  struct Entry {
    CUgraphExec_st* graph = nullptr;
    uint64_t allocations = 0;  // when it was captured
    uint64_t last_step = 0;
  };
  void DropOldest();

  std::map<StepShape, Entry> entries_;
  Entry* current_ = nullptr;
  uint64_t step_ = 0;
};

}  // namespace tandem::core
