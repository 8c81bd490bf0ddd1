#pragma once

#include <cstdint>

#include "core/cuda/attention/cache_layer.h"
#include "core/cuda/kernels/cuda_stream.h"
#include "core/model/config.h"
#include "core/model/kv_view.h"

/// Rotary embedding, the KV cache, and attention on a GPU, with the bits of core/cpu/elementwise
/// and core/cpu/attention. All pointers are to memory of the device; heads are those of the rank,
/// counted from 0. Thread safety of the functions: any thread.
namespace tandem::core {

/// Rotated in place: queries and keys.
struct RotaryHeads {
  RopeLayout layout = RopeLayout::kHalves;
  const float* cosines_sines = nullptr;  // [tokens, 2, pairs]
  int64_t pairs = 0;
  float* query = nullptr;        // [tokens, query_heads, head_dim]
  float* key = nullptr;          // [tokens, kv_heads, head_dim]
  const float* value = nullptr;  // [tokens, kv_heads, head_dim]
  int query_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
};

/// Rotates as Rotate (elementwise.h) does, and writes keys and values into their pages as
/// StoreKeyValue (attention.h) does.
void LaunchRotateAndStore(CudaStream stream, const RotaryHeads& heads, const TokenPlaces& places,
                          const CacheLayer& layer, KvDtype dtype);

inline constexpr int kMostHeadsTogether = 8;
inline constexpr int kMostHeadDim = 256;

/// Neighbouring query heads of one KV head, which read its pages together.
struct HeadRun {
  int32_t first_head = 0;
  int32_t count = 0;  // 1 to kMostHeadsTogether
  int32_t kv_head = 0;
};

/// Attention of all query heads of neighbouring tokens over chunks of 256 positions.
struct AttentionStep {
  const float* query = nullptr;   // [tokens of the step, query_heads, head_dim]
  const HeadRun* runs = nullptr;  // [run_count], all query heads
  int run_count = 0;
  int largest_run = 0;  // heads
  int query_heads = 0;
  int head_dim = 0;         // even, at most kMostHeadDim
  int window = 0;           // 0: none
  bool neighbours = false;  // whether tokens of one sequence follow one another
  float scale = 1.0F;
  const float* slopes = nullptr;  // [query_heads] of ALiBi, or null
  int64_t first_token = 0;        // of the step
  int64_t tokens = 0;
  int64_t first_chunk = 0;  // that any of them sees
  int64_t chunks = 0;
  float* results = nullptr;  // [ResultFloats()] scratch
  float* out = nullptr;      // [tokens of the step, query_heads, head_dim]

  /// Output, maximum and sum of each token, head and chunk.
  int64_t ResultFloats() const { return tokens * query_heads * chunks * (head_dim + 2); }
};

/// As AttendQueries (core/cpu/attention/attention.h) has it: all chunks at once, then their results
/// in ascending order.
void LaunchAttention(CudaStream stream, const AttentionStep& step, const TokenPlaces& places,
                     const CacheLayer& layer, KvDtype dtype);

/// Whether LaunchFastAttention takes such heads.
bool HasFastAttention(int head_dim, KvDtype dtype);
/// The same in fast mode, on tensor cores, for steps of many neighbouring tokens: weights and
/// queries are rounded to float16. Needs no results.
void LaunchFastAttention(CudaStream stream, const AttentionStep& step, const TokenPlaces& places,
                         const CacheLayer& layer);

}  // namespace tandem::core
