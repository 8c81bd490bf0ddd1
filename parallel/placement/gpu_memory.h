#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/base/status.h"
#include "core/cpu/linear/packed_matrix.h"
#include "core/formats/model_file.h"
#include "core/model/kv_view.h"
#include "parallel/sharding/shard_plan.h"

namespace tandem::parallel {

/// What is left on each GPU for the CUDA runtime, its kernels and what it rounds up.
inline constexpr int64_t kGpuReserve = int64_t{512} << 20;

/// Of a rank's KV cache, that its host tier is made for where nobody says otherwise, and bytes of
/// it, at most.
inline constexpr int64_t kSpilledShare = 4;
inline constexpr int64_t kMostSpilledBytes = int64_t{2} << 30;

/// What a rank on a GPU is started with.
struct GpuMemoryOptions {
  core::ActivationMode activations = core::ActivationMode::kQ8;
  core::KvDtype kv_dtype = core::KvDtype::kF16;
  std::optional<int64_t> spill_memory = {};  // RankOptions::spill_memory
  int64_t kv_memory = 0;                     // 0: as much as max_running sequences want
  int max_running = 64;
  int prefill_chunk = 512;
  bool speculate = false;
  bool exact = true;
};

/// Bytes that a rank needs on its GPU.
struct GpuMemory {
  int64_t weights = 0;
  double bits_per_weight = 0;
  int64_t cache = 0;        // of --kv-memory, or wished for
  int64_t least_cache = 0;  // without which it does not run
  int64_t spill = 0;        // of the host's pinned memory, at most: the host tier
  int64_t token = 0;        // of the cache, in layers without a window
  int64_t workspace = 0;    // of a step, at most
  /// With the cache, and with kGpuReserve.
  int64_t total() const { return weights + cache + workspace + kGpuReserve; }
};
/// Needs no GPU.
GpuMemory MemoryOnGpu(const core::ModelFile& file, const core::Shard& shard,
                      const GpuMemoryOptions& options);

/// A GPU as a rank finds it.
struct GpuRoom {
  std::string host;
  std::string gpu;   // "GPU 0 (NVIDIA H200)"
  int64_t free = 0;  // bytes
  int sharers = 1;   // ranks that it is divided among
};

/// kResourceExhausted if rank `rank` of the plan does not fit: how much is missing, and what would
/// fit, of more ranks, less cache, and weights in a smaller format.
absl::Status CheckGpuMemory(const core::ModelFile& file, const ShardPlan& plan, int rank,
                            const GpuMemoryOptions& options, const GpuRoom& room);

}  // namespace tandem::parallel
