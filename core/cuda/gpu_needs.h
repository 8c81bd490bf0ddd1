#pragma once

#include <cstdint>

#include "core/cpu/linear/packed_matrix.h"
#include "core/formats/model_file.h"
#include "core/model/shard.h"

namespace tandem::core {

/// The largest step.
struct StepSize {
  int64_t tokens = 0;
  int64_t logit_rows = 0;  // tokens whose logits are wanted
  int64_t blocks = 0;      // in the block tables of its sequences
};

/// Bytes of a GPU's memory, besides the KV cache.
struct GpuNeeds {
  int64_t weights = 0;
  int64_t elements = 0;   // that they hold
  int64_t workspace = 0;  // rows of a step, at most
};

/// What CudaOperations and Transformer allocate for a shard. Needs no GPU.
GpuNeeds NeedsOfGpu(const ModelFile& file, const Shard& shard, ActivationMode mode,
                    const StepSize& step, bool exact);

}  // namespace tandem::core
