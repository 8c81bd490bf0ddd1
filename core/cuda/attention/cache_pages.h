#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "core/cpu/simd/float8.h"
#include "core/cuda/attention/cache_layer.h"
#include "core/cuda/kernels/device_code.h"
#include "core/model/kv_view.h"

/// How kernels find and read the cache, and bring a chunk of it into shared memory. Its elements
/// are float, uint16_t for float16, or Float8.
namespace tandem::core {

/// Keys of the page in which a position of a token's sequence lies; values follow.
template <typename Element>
__device__ Element* KeysOf(const TokenPlaces& places, const CacheLayer& layer, int64_t token,
                           int64_t position, int kv_head) {
  const int64_t block = places.blocks[layer.table_begins[token] + position / kPageTokens];
  return reinterpret_cast<Element*>(layer.base + block * layer.block_stride +
                                    kv_head * layer.page_bytes);
}

/// First position that a token at `position` sees.
__device__ inline int64_t FirstVisible(int64_t position, int window) {
  return window == 0 || position < window ? 0 : position - window + 1;
}

template <typename Element>
inline constexpr bool kScaled = sizeof(Element) == 1;

/// Scales of the page whose keys these are: [2, 64] of keys and values.
template <typename Element>
__device__ float* ScalesOf(Element* keys, int head_dim) {
  return reinterpret_cast<float*>(keys + int64_t{2} * kPageTokens * head_dim);
}

/// Two neighbouring elements of the cache.
template <typename Element>
struct ElementPair;

template <>
struct ElementPair<uint16_t> {
  uint32_t bits;
  __device__ float first() const { return Float(bits & 0xffff); }
  __device__ float second() const { return Float(bits >> 16); }

 private:
  static __device__ float Float(uint32_t half) {
    return __half2float(__ushort_as_half(static_cast<uint16_t>(half)));
  }
};

template <>
struct ElementPair<float> {
  float2 values;
  __device__ float first() const { return values.x; }
  __device__ float second() const { return values.y; }
};

template <>
struct ElementPair<Float8> {
  uint32_t halves;
  __device__ float first() const { return ElementPair<uint16_t>{halves}.first(); }
  __device__ float second() const { return ElementPair<uint16_t>{halves}.second(); }
};

/// Pairs of elements in the shared memory of a block, from a byte of it on.
template <typename Element>
class PairArray {
 public:
  __device__ explicit PairArray(int first_byte) : pairs_(static_cast<size_t>(first_byte)) {}
  __device__ ElementPair<Element> operator[](int pair) const { return pairs_[pair]; }

 private:
  SharedArray<ElementPair<Element>> pairs_;
};

template <>
class PairArray<Float8> {
 public:
  __device__ explicit PairArray(int first_byte) : words_(static_cast<size_t>(first_byte)) {}
  /// HalfOfFloat8 of both.
  __device__ ElementPair<Float8> operator[](int pair) const {
    const auto at = static_cast<unsigned>(pair);
    const uint32_t word = words_[static_cast<int>(at / 2)];
    // Puts a code into the upper byte of each half.
    const uint32_t codes = __byte_perm(word, 0, at % 2 == 0 ? 0x1404 : 0x3424);
    return {(codes & 0x80008000) | (codes >> 1 & 0x3f803f80)};
  }

 private:
  SharedArray<uint32_t> words_;
};

// Of a block that attends: two positions of a chunk each, or two dimensions of the values.
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
  __device__ bool HasAll(int first, int last) const { return first >= begin && last <= end; }
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
    if constexpr (Work::kSkipsPages) {
      if (!work.HasPage(t / kPageTokens)) return CommitCopies();
    }
    const Element* values = keys_of(t) + int64_t{kPageTokens} * stages.head_dim;
    PutPieces(to, values + t % kPageTokens * stages.head_dim,
              stages.value_tokens * stages.head_dim * kBytes);
  }
  CommitCopies();
}

}  // namespace tandem::core
