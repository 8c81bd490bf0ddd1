#pragma once

#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/formats/model_file.h"
#include "parallel/communicators/communicator.h"
#include "parallel/placement/gpu_memory.h"
#include "parallel/sharding/shard_plan.h"

namespace tandem::parallel {

/// What a rank says of its GPU at the start.
struct GpuFacts {
  std::string device;           // "GPU 1, NVIDIA H200"; empty: the rank computes on a CPU
  std::string driver;           // "580.65.06 (CUDA 13.0)"
  int64_t free_bytes = 0;       // of its memory, before anything is put there
  double bytes_per_second = 0;  // that it copies; 0: not measured
  int32_t sharers = 1;          // ranks that compute on it
};

/// Those of all ranks. Called by all together. [ranks]
absl::StatusOr<std::vector<GpuFacts>> GatherGpuFacts(Communicator& world, const GpuFacts& mine);

/// "n3 (GPU 1, NVIDIA H200)": where each rank is, for messages. [ranks]
std::vector<std::string> PlacesOf(const std::vector<std::string>& hosts,
                                  const std::vector<GpuFacts>& facts);

/// What is to be told of drivers that differ between ranks; empty: they are alike.
std::string DriverDifferences(const std::vector<std::string>& places,
                              const std::vector<GpuFacts>& facts);

/// How a model is cut for GPUs.
struct GpuDivision {
  ShardPlan plan;
  std::string why;    // which weights were taken, and why: for the log
  bool fits = false;  // each rank on its GPU
};

/// Cuts the model so that ranks take equal time and each fits on its GPU.
///
/// weights: relative speeds that the user gave; empty: by what the GPUs measured, where the slowest
/// has less than nine tenths of the fastest, else equal. A GPU that ranks share has a part of its
/// speed and memory for each. Where a rank does not fit so, others take more; where that is of no
/// avail, the plan is that of the weights, and `fits` is false. Of ranks that all fit, each has
/// room for `kv_memory`, or for a sequence of 8192 tokens, if a plan allows that. Pure, so all
/// ranks that have the same facts get the same. places: for `why`. Errors: those of PlanShards.
absl::StatusOr<GpuDivision> DivideAmongGpus(const core::ModelFile& file,
                                            const std::vector<GpuFacts>& facts,
                                            const std::vector<std::string>& places,
                                            const std::vector<double>& weights,
                                            const GpuMemoryOptions& options);

}  // namespace tandem::parallel
