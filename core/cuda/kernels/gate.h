#pragma once

#include "core/cpu/simd/lanes_math.h"
#include "core/cuda/kernels/gpu_lane.h"
#include "core/model/config.h"

namespace tandem::core {

/// activation(gate) * up
__device__ inline float Activate(Gate kind, float gate, float up) {
  const GpuLane g = GpuLane::Set(gate);
  const GpuLane u = GpuLane::Set(up);
  return (kind == Gate::kSilu ? LanesSilu(g, u) : LanesGeluTanh(g, u)).v;
}

}  // namespace tandem::core
