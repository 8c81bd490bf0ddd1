#include <cuda_fp16.h>

#include <cmath>

#include "core/cpu/simd/lanes_math.h"
#include "core/cuda/kernels/attention_kernels.h"
#include "core/cuda/kernels/device_code.h"
#include "core/cuda/kernels/gpu_lane.h"
#include "core/cuda/kernels/launch.h"

namespace tandem::core {
namespace {

constexpr int kBlocksTogether = 4;  // on a processor: leaves enough registers to spill none
constexpr unsigned kRotateThreads = 64;
constexpr unsigned kCombineThreads = 128;
constexpr int kSumLanes = 16;  // of a softmax's sum (numerics.md, rule 5)
constexpr unsigned kAllLanes = 0xffffffff;

__device__ float AsFloat(float x) { return x; }
__device__ float AsFloat(uint16_t half) { return __half2float(__ushort_as_half(half)); }
__device__ void Store(float* to, float x) { *to = x; }
__device__ void Store(uint16_t* to, float x) { *to = __half_as_ushort(__float2half_rn(x)); }

__device__ float Exp(float x) { return LanesExp(GpuLane::Set(x)).v; }

/// Keys of the page in which a position of a token's sequence lies; values follow.
template <typename Element>
__device__ Element* KeysOf(const TokenPlaces& places, const CacheLayer& layer, int64_t token,
                           int64_t position, int kv_head) {
  const int64_t block = places.blocks[layer.table_begins[token] + position / kPageTokens];
  return reinterpret_cast<Element*>(layer.base + block * layer.block_stride +
                                    kv_head * layer.page_bytes);
}

/// A block rotates one head of one token.
template <typename Element>
__global__ void RotateAndStoreKernel(RotaryHeads heads, TokenPlaces places, CacheLayer layer) {
  BeginKernel();
  const int64_t token = blockIdx.x;
  const int head = static_cast<int>(blockIdx.y);
  const bool is_key = head >= heads.query_heads;
  const int64_t kv_at = (token * heads.kv_heads + head - heads.query_heads) * heads.head_dim;
  float* x = is_key ? heads.key + kv_at
                    : heads.query + (token * heads.query_heads + head) * heads.head_dim;
  const float* cosines = heads.cosines_sines + token * 2 * heads.pairs;
  const float* sines = cosines + heads.pairs;
  const bool adjacent = heads.layout == RopeLayout::kAdjacentPairs;
  for (int64_t i = threadIdx.x; i < heads.pairs; i += blockDim.x) {
    float* first = x + (adjacent ? 2 * i : i);
    float* second = adjacent ? first + 1 : first + heads.pairs;
    GpuLane a = GpuLane::Set(*first);
    GpuLane b = GpuLane::Set(*second);
    LanesRotate(GpuLane::Set(cosines[i]), GpuLane::Set(sines[i]), a, b);
    *first = a.v;
    *second = b.v;
  }
  if (!is_key) return;
  __syncthreads();
  const int64_t position = places.positions[token];
  const int64_t slot = position % kPageTokens;
  auto* keys = KeysOf<Element>(places, layer, token, position, head - heads.query_heads);
  Element* values = keys + int64_t{kPageTokens} * heads.head_dim;
  for (int d = static_cast<int>(threadIdx.x); d < heads.head_dim;
       d += static_cast<int>(blockDim.x)) {
    Store(keys + d * kPageTokens + slot, x[d]);
    Store(values + slot * heads.head_dim + d, heads.value[kv_at + d]);
  }
}

__device__ int64_t FirstVisible(int64_t position, int window) {
  return window == 0 || position < window ? 0 : position - window + 1;
}

/// What a block works on: a run of heads of one token, and the visible part of one chunk.
struct ChunkWork {
  int64_t token;
  int64_t start;  // position
  int first;      // visible: [first, last) of the chunk
  int last;
  HeadRun run;

  __device__ ChunkWork(const AttentionStep& step, const TokenPlaces& places)
      : token(step.first_token + blockIdx.z),
        start((step.first_chunk + blockIdx.x) * kChunkTokens),
        run(step.runs[blockIdx.y]) {
    const int64_t position = places.positions[token];
    first = Clamp(FirstVisible(position, step.window) - start);
    last = Clamp(position + 1 - start);
  }
  static __device__ int Clamp(int64_t offset) {
    return static_cast<int>(offset < 0 ? 0 : offset > kChunkTokens ? kChunkTokens : offset);
  }
};

/// scores[q][t] of all positions t of the chunk, one a thread; -infinity where it is not visible.
/// query: [kHeads, head_dim]; scores: [kHeads, 256]
template <typename Element, int kHeads>
__device__ void Scores(const AttentionStep& step, const TokenPlaces& places,
                       const CacheLayer& layer, const ChunkWork& work,
                       const SharedArray<float>& query, const SharedArray<float>& scores) {
  const int t = static_cast<int>(threadIdx.x);
  float sums[kHeads] = {};
  const bool visible = t >= work.first && t < work.last;
  if (visible) {
    const Element* key =
        KeysOf<Element>(places, layer, work.token, work.start + t, work.run.kv_head) +
        t % kPageTokens;
    for (int d = 0; d < step.head_dim; ++d) {
      const float k = AsFloat(key[d * kPageTokens]);
#pragma unroll
      for (int q = 0; q < kHeads; ++q) {
        if (q < work.run.count) sums[q] = fmaf(query[q * step.head_dim + d], k, sums[q]);
      }
    }
  }
#pragma unroll
  for (int q = 0; q < kHeads; ++q) {
    if (q < work.run.count)
      scores[q * kChunkTokens + t] = visible ? sums[q] * step.scale : -INFINITY;
  }
}

/// A warp turns the scores of one head into weights. scores: from first_score on. result: maximum
/// and sum.
__device__ void Weights(const ChunkWork& work, const SharedArray<float>& scores, int first_score,
                        float* result) {
  const int lane = static_cast<int>(threadIdx.x % kWarpThreads);
  float maximum = -INFINITY;
  for (int t = lane; t < kChunkTokens; t += static_cast<int>(kWarpThreads)) {
    const float score = scores[first_score + t];
    maximum = score > maximum ? score : maximum;
  }
  for (int other = kWarpThreads / 2; other > 0; other /= 2) {
    const float theirs = __shfl_xor_sync(kAllLanes, maximum, other);
    maximum = theirs > maximum ? theirs : maximum;
  }
  for (int t = lane; t < kChunkTokens; t += static_cast<int>(kWarpThreads)) {
    const bool visible = t >= work.first && t < work.last;
    scores[first_score + t] = visible ? Exp(scores[first_score + t] - maximum) : 0.0F;
  }
  __syncwarp();
  float sum = 0.0F;
  if (lane < kSumLanes) {
    for (int t = lane; t < kChunkTokens; t += kSumLanes) sum += scores[first_score + t];
  }
  for (unsigned half = kSumLanes / 2; half > 0; half /= 2) {
    sum += __shfl_down_sync(kAllLanes, sum, half);
  }
  if (lane == 0) {
    result[0] = maximum;
    result[1] = sum;
  }
}

/// One dimension of one head: its values times the weights, positions ascending.
template <typename Element>
__device__ float WeightedValues(const AttentionStep& step, const TokenPlaces& places,
                                const CacheLayer& layer, const ChunkWork& work,
                                const SharedArray<float>& weights, int first_weight, int dim) {
  float sum = 0.0F;
  for (int t = work.first; t < work.last;) {
    const int page_end = (t / kPageTokens + 1) * kPageTokens;
    const int end = page_end < work.last ? page_end : work.last;
    const Element* values =
        KeysOf<Element>(places, layer, work.token, work.start + t, work.run.kv_head) +
        int64_t{kPageTokens} * step.head_dim;
    for (; t < end; ++t) {
      const float value = AsFloat(values[int64_t{t % kPageTokens} * step.head_dim + dim]);
      sum = fmaf(weights[first_weight + t], value, sum);
    }
  }
  return sum;
}

/// A block attends one chunk with up to kHeads query heads of one token.
template <typename Element, int kHeads>
__global__ void __launch_bounds__(kChunkTokens, kBlocksTogether)
    AttendChunkKernel(AttentionStep step, TokenPlaces places, CacheLayer layer) {
  BeginKernel();
  const ChunkWork work(step, places);
  if (work.first >= work.last) return;  // the whole block
  const int n = step.head_dim;
  const SharedArray<float> query(0);  // [kHeads, n]
  const SharedArray<float> scores(sizeof(float) * kHeads *
                                  static_cast<size_t>(n));  // [kHeads, 256]
  const int64_t first_query = (work.token * step.query_heads + work.run.first_head) * n;
  const int threads = static_cast<int>(blockDim.x);
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < work.run.count * n; i += threads) query[i] = step.query[first_query + i];
  __syncthreads();
  Scores<Element, kHeads>(step, places, layer, work, query, scores);
  __syncthreads();
  const auto result = [&](int q) {
    const int64_t head = int64_t{blockIdx.z} * step.query_heads + work.run.first_head + q;
    return step.results + (head * step.chunks + blockIdx.x) * (n + 2);
  };
  const int warp = thread / static_cast<int>(kWarpThreads);
  if (warp < work.run.count) Weights(work, scores, warp * kChunkTokens, result(warp) + n);
  __syncthreads();
  for (int i = thread; i < work.run.count * n; i += threads) {
    const int q = i / n;
    result(q)[i % n] =
        WeightedValues<Element>(step, places, layer, work, scores, q * kChunkTokens, i % n);
  }
}

/// A block adds the chunks of one head of one token up.
__global__ void CombineChunksKernel(AttentionStep step, TokenPlaces places) {
  BeginKernel();
  const int64_t token = step.first_token + blockIdx.y;
  const int n = step.head_dim;
  const int64_t position = places.positions[token];
  const int64_t first = FirstVisible(position, step.window) / kChunkTokens - step.first_chunk;
  const int64_t last = position / kChunkTokens - step.first_chunk;
  const int64_t head = int64_t{blockIdx.y} * step.query_heads + blockIdx.x;
  const float* results = step.results + head * step.chunks * (n + 2);
  float maximum = -INFINITY;
  for (int64_t c = first; c <= last; ++c) {
    const float of_chunk = results[c * (n + 2) + n];
    maximum = maximum < of_chunk ? of_chunk : maximum;
  }
  for (int d = static_cast<int>(threadIdx.x); d < n; d += static_cast<int>(blockDim.x)) {
    float sum = 0.0F;
    float out = 0.0F;
    for (int64_t c = first; c <= last; ++c) {
      const float* of_chunk = results + c * (n + 2);
      const float factor = Exp(of_chunk[n] - maximum);
      sum = fmaf(factor, of_chunk[n + 1], sum);
      out = fmaf(factor, of_chunk[d], out);
    }
    step.out[(token * step.query_heads + blockIdx.x) * n + d] = __fdiv_rn(out, sum);
  }
}

template <typename Element, int kHeads>
void LaunchChunks(CudaStream stream, const AttentionStep& step, const TokenPlaces& places,
                  const CacheLayer& layer) {
  const dim3 grid(static_cast<unsigned>(step.chunks), static_cast<unsigned>(step.run_count),
                  static_cast<unsigned>(step.tokens));
  const size_t shared_bytes =
      sizeof(float) * kHeads * (static_cast<size_t>(step.head_dim) + kChunkTokens);
  Launch(stream, grid, kChunkTokens, shared_bytes, AttendChunkKernel<Element, kHeads>, step, places,
         layer);
}

template <typename Element>
void LaunchChunksOf(CudaStream stream, const AttentionStep& step, const TokenPlaces& places,
                    const CacheLayer& layer) {
  static_assert(kMostHeadsTogether == 4);
  if (step.largest_run == 1) {
    LaunchChunks<Element, 1>(stream, step, places, layer);
  } else if (step.largest_run == 2) {
    LaunchChunks<Element, 2>(stream, step, places, layer);
  } else {
    LaunchChunks<Element, kMostHeadsTogether>(stream, step, places, layer);
  }
}

}  // namespace

CacheLayer LayerOf(const KvView& cache, int layer, const TokenPlaces& places) {
  const KvView::LayerPlace& place = cache.place(layer);
  return {place.base, place.block_stride, cache.geometry().PageBytes(),
          places.table_begins + place.group * places.tokens};
}

void LaunchRotateAndStore(CudaStream stream, const RotaryHeads& heads, const TokenPlaces& places,
                          const CacheLayer& layer, KvDtype dtype) {
  const dim3 grid(static_cast<unsigned>(places.tokens),
                  static_cast<unsigned>(heads.query_heads + heads.kv_heads));
  const auto kernel =
      dtype == KvDtype::kF16 ? RotateAndStoreKernel<uint16_t> : RotateAndStoreKernel<float>;
  Launch(stream, grid, kRotateThreads, 0, kernel, heads, places, layer);
}

void LaunchAttention(CudaStream stream, const AttentionStep& step, const TokenPlaces& places,
                     const CacheLayer& layer, KvDtype dtype) {
  if (dtype == KvDtype::kF16) {
    LaunchChunksOf<uint16_t>(stream, step, places, layer);
  } else {
    LaunchChunksOf<float>(stream, step, places, layer);
  }
  const dim3 grid(static_cast<unsigned>(step.query_heads), static_cast<unsigned>(step.tokens));
  Launch(stream, grid, kCombineThreads, 0, CombineChunksKernel, step, places);
}

}  // namespace tandem::core
