#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/cpu/elementwise/rope_table.h"
#include "core/cuda/attention/attention_kernels.h"
#include "core/cuda/cuda_memory.h"
#include "core/model/config.h"
#include "core/model/model.h"
#include "core/model/tensor.h"

namespace tandem::core {

/// What kernels need to know of a step, in the GPU's memory: where its tokens stand, their block
/// tables and their angles. One upload a step. Thread safety: one thread calls.
class CudaStep {
 public:
  /// Both must outlive the step.
  CudaStep(const ModelConfig& config, CudaMemory& memory);

  void Begin(const Batch& batch);

  /// Until the next Begin, as is the rest.
  const TokenPlaces& places() const { return places_; }
  /// On the host: [tokens]
  std::span<const int32_t> positions() const { return positions_; }
  /// Whether any sequence has several tokens.
  bool neighbours() const { return neighbours_; }
  /// [tokens, 2, pairs]: cosines and sines
  const float* angles(bool local) const { return local ? local_angles_ : angles_; }
  const Rope& rope(bool local) const { return local ? config_.local_rope : config_.rope; }

 private:
  /// Words of the upload, and where they will be on the device.
  const int32_t* Add(std::span<const int32_t> words);
  const float* AddAngles(const RopeTable& table);

  const ModelConfig& config_;
  const bool has_local_;  // layers with a window
  RopeTable rope_;
  RopeTable local_rope_;
  Upload upload_;
  Rows<int32_t> device_;
  std::vector<int32_t> words_;
  std::vector<int32_t> positions_;
  TokenPlaces places_;
  bool neighbours_ = false;
  const float* angles_ = nullptr;
  const float* local_angles_ = nullptr;
};

}  // namespace tandem::core
