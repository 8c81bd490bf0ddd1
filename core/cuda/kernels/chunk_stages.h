#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "core/cuda/kernels/cache_pages.h"
#include "core/cuda/kernels/device_code.h"

/// Private to attend_kernels.cu: how a chunk of the cache comes into shared memory.
namespace tandem::core {

// Two positions of a chunk each, or two dimensions of the values.
inline constexpr int kAttendThreads = 128;
inline constexpr int kChunkPages = kChunkTokens / kPageTokens;
inline constexpr int kPieceBytes = 16;  // of a copy into shared memory
inline constexpr int kStages = 3;       // parts of the chunk that are on their way or in use
inline constexpr int kStageBytes = 8192;

/// Offsets within a chunk.
struct Visible {
  int begin;
  int end;
  __device__ bool Has(int t) const { return t >= begin && t < end; }
  __device__ bool any() const { return begin < end; }
};

/// How a chunk comes into shared memory: first the keys of all its positions, some dimensions a
/// stage; then the values, some positions a stage. A stage is what lies together in each page.
template <typename Element>
struct ChunkStages {
  static constexpr int kKeyDims =
      kStageBytes / (kChunkTokens * static_cast<int>(sizeof(Element)));  // of a stage
  static constexpr int kKeyPageBytes = kStageBytes / kChunkPages;
  int head_dim;
  int key_stages;
  int value_tokens;  // of a stage; divides a page
  int first_value;   // stage, counted from the chunk's first position
  int stages;

  __device__ ChunkStages(int n, const Visible& visible)
      : head_dim(n), key_stages((n + kKeyDims - 1) / kKeyDims), value_tokens(kPageTokens) {
    while (value_tokens * n * static_cast<int>(sizeof(Element)) > kStageBytes) value_tokens /= 2;
    first_value = visible.begin / value_tokens;
    stages = key_stages + (visible.end + value_tokens - 1) / value_tokens - first_value;
  }
  static __device__ int At(int stage) { return stage % kStages * kStageBytes; }
  /// First dimension of a stage of keys, and its dimensions.
  __device__ int KeyDim(int stage) const { return stage * kKeyDims; }
  __device__ int KeyDims(int stage) const {
    const int left = head_dim - stage * kKeyDims;
    return left < kKeyDims ? left : kKeyDims;
  }
  /// First position of a stage of values, in the chunk.
  __device__ int ValueToken(int stage) const {
    return (first_value + stage - key_stages) * value_tokens;
  }
};

/// The scales of a chunk's keys and values in shared memory, behind the stages.
class ChunkScales {
 public:
  static constexpr int kPageBytes = 2 * kPageTokens * static_cast<int>(sizeof(float));
  static constexpr int kBytes = kChunkPages * kPageBytes;
  /// First byte of a page's.
  static __device__ int At(int page) { return kStages * kStageBytes + page * kPageBytes; }

  __device__ ChunkScales() : scales_(static_cast<size_t>(At(0))) {}
  __device__ float key(int t) const { return scales_[t + t / kPageTokens * kPageTokens]; }
  __device__ float value(int t) const { return scales_[t + (t / kPageTokens + 1) * kPageTokens]; }

 private:
  SharedArray<float> scales_;
};
template <typename Element>
inline constexpr int kScalesBytes = kScaled<Element> ? ChunkScales::kBytes : 0;

__device__ inline void PutPieces(int to, const void* from, int bytes) {
  for (int at = static_cast<int>(threadIdx.x) * kPieceBytes; at < bytes;
       at += kAttendThreads * kPieceBytes) {
    CopyAsync<kPieceBytes>(to + at, static_cast<const std::byte*>(from) + at);
  }
}

template <typename Element, typename Work>
__device__ void PutStage(const ChunkStages<Element>& stages, int stage, const TokenPlaces& places,
                         const CacheLayer& layer, const Work& work) {
  const auto keys_of = [&](int t) {
    return KeysOf<Element>(places, layer, work.first_token, work.start + t, work.run.kv_head);
  };
  constexpr int kBytes = static_cast<int>(sizeof(Element));
  const int to = stages.At(stage);
  if (stage < stages.key_stages) {
    for (int page = 0; page < kChunkPages; ++page) {
      if (!work.HasPage(page)) continue;
      if (kScaled<Element> && stage == 0) {
        PutPieces(ChunkScales::At(page), ScalesOf(keys_of(page * kPageTokens), stages.head_dim),
                  ChunkScales::kPageBytes);
      }
      PutPieces(to + page * stages.kKeyPageBytes,
                keys_of(page * kPageTokens) + stages.KeyDim(stage) * kPageTokens,
                stages.KeyDims(stage) * kPageTokens * kBytes);
    }
  } else if (stage < stages.stages) {
    const int t = stages.ValueToken(stage);
    const Element* values = keys_of(t) + int64_t{kPageTokens} * stages.head_dim;
    PutPieces(to, values + t % kPageTokens * stages.head_dim,
              stages.value_tokens * stages.head_dim * kBytes);
  }
  CommitCopies();
}

}  // namespace tandem::core
