#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/cuda/attention/sparse_attention_kernels.h"
#include "core/cuda/cuda_memory.h"
#include "core/model/config.h"
#include "core/model/sparse_attention.h"
#include "core/model/tensor.h"

namespace tandem::core {

/// What the tokens of a step see in sparse attention, in the GPU's memory. One upload a step.
/// Thread safety: one thread calls.
class CudaSparseStep {
 public:
  /// Both must outlive the step; the config's attention is sparse.
  CudaSparseStep(const ModelConfig& config, CudaMemory& memory);

  /// positions: [tokens] of the step; group_tokens: SparseGroupTokens().
  void Begin(std::span<const int32_t> positions, int group_tokens);

  /// Until the next Begin.
  SparseStep Of(int layer) const;
  /// Chunks that a group of tokens sees in a layer, at most.
  int64_t MostChunks(int layer) const { return lists_[list_of_[Index(layer)]].most; }

 private:
  /// The lists of layers in which tokens see the same.
  struct Lists {
    int layer = 0;      // one of them
    size_t begins = 0;  // into words_
    size_t chunks = 0;  // into words_
    int64_t most = 0;
  };

  static size_t Index(int layer) { return static_cast<size_t>(layer); }
  void Add(std::span<const int32_t> positions, int group_tokens, Lists& lists);

  const ModelConfig& config_;
  SparseAttention attention_;
  std::vector<Lists> lists_;
  std::vector<size_t> list_of_;  // [layers] into lists_
  std::vector<int32_t> words_;   // what is uploaded
  Upload upload_;
  Rows<int32_t> device_;
};

}  // namespace tandem::core
