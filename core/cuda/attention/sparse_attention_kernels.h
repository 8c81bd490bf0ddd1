#pragma once

#include <cstdint>

#include "core/cuda/attention/attention_kernels.h"

/// Sparse attention on a GPU (core/model/sparse_attention.h), with the bits of core/cpu/attention.
/// Thread safety: any thread.
namespace tandem::core {

/// A chunk of which some token of a group sees a key. Bit 4 t + p of `chosen`: its page p was
/// chosen for token t of the group.
struct SparseChunk {
  int32_t chunk = 0;
  uint32_t chosen = 0;
};

/// What the tokens of a step see in a layer. Groups are of SparseGroupTokens() neighbours in the
/// step, the last of fewer. Pointers are to memory of the device.
struct SparseStep {
  int32_t window = 0;  // of the form
  int32_t global = 0;
  const int32_t* begins = nullptr;      // [groups + 1] into `chunks`
  const SparseChunk* chunks = nullptr;  // of each group, ascending
};

/// The tokens of a group. largest_run, neighbours: AttentionStep's.
int SparseGroupTokens(int largest_run, bool neighbours);

/// LaunchAttention with sparse attention. step.chunks: of any group, at most; step.first_chunk is
/// not read. step.first_token begins a group.
void LaunchSparseAttention(CudaStream stream, const AttentionStep& step, const SparseStep& sparse,
                           const TokenPlaces& places, const CacheLayer& layer, KvDtype dtype);

}  // namespace tandem::core
