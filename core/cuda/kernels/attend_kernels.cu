#include <cmath>

#include "core/cpu/simd/lanes_math.h"
#include "core/cuda/kernels/attention_kernels.h"
#include "core/cuda/kernels/cache_pages.h"
#include "core/cuda/kernels/device_code.h"
#include "core/cuda/kernels/gpu_lane.h"
#include "core/cuda/kernels/launch.h"

namespace tandem::core {
namespace {

constexpr int kResident = 4;  // blocks on a multiprocessor: leaves enough registers to spill none
constexpr int kWarps = kAttendThreads / static_cast<int>(kWarpThreads);
constexpr unsigned kCombineThreads = 128;
constexpr int kSumLanes = 16;  // of a softmax's sum (numerics.md, rule 5)
constexpr unsigned kAllLanes = 0xffffffff;

__device__ float Exp(float x) { return LanesExp(GpuLane::Set(x)).v; }

__device__ int ClampToChunk(int64_t offset) {
  return static_cast<int>(offset < 0 ? 0 : offset > kChunkTokens ? kChunkTokens : offset);
}

template <int kRows>
struct alignas(kRows % 4 == 0 ? 16 : 4 * kRows) OfRows {
  float of[kRows];
};

/// What a block works on: a run of query heads of up to kTokens neighbouring tokens of a sequence,
/// which read the same pages, and one chunk. Row kHeads * t + h is head h of token t.
template <int kHeads, int kTokens>
struct ChunkWork {
  int64_t first_token;
  int tokens;
  int64_t start;  // position
  HeadRun run;
  Visible of_tokens[kTokens];
  Visible visible;  // to any of them

  /// The tokens from `first` on that are of one sequence, `end` at most.
  __device__ ChunkWork(const AttentionStep& step, const TokenPlaces& places,
                       const CacheLayer& layer, int64_t first, int64_t end)
      : first_token(first),
        tokens(0),
        start((step.first_chunk + blockIdx.x) * kChunkTokens),
        run(step.runs[blockIdx.y]),
        visible{kChunkTokens, 0} {
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      of_tokens[t] = {0, 0};
      const int64_t token = first + t;
      if (t > tokens || token >= end || layer.table_begins[token] != layer.table_begins[first]) {
        continue;
      }
      tokens = t + 1;
      const int64_t position = places.positions[token];
      of_tokens[t] = {ClampToChunk(FirstVisible(position, step.window) - start),
                      ClampToChunk(position + 1 - start)};
      if (!of_tokens[t].any()) continue;
      if (of_tokens[t].begin < visible.begin) visible.begin = of_tokens[t].begin;
      if (of_tokens[t].end > visible.end) visible.end = of_tokens[t].end;
    }
  }
  __device__ bool HasRow(int row) const {
    return row % kHeads < run.count && of_tokens[row / kHeads].any();
  }
  __device__ bool HasPage(int page) const {
    return page * kPageTokens < visible.end && (page + 1) * kPageTokens > visible.begin;
  }
};

/// Adds a stage of keys to the products of two positions with all rows: one chain a row and
/// position, dimensions ascending.
template <typename Element, int kRows>
__device__ void AddKeys(const ChunkStages<Element>& stages, int stage,
                        const SharedArray<OfRows<kRows>>& query, float (&sums)[2][kRows]) {
  const PairArray<Element> pairs(stages.At(stage));
  constexpr int kPairs = kPageTokens / 2;
  const int thread = static_cast<int>(threadIdx.x);
  const int page_at = thread / kPairs * stages.kKeyPageBytes / (2 * sizeof(Element));
  const int dims = stages.KeyDims(stage);
#pragma unroll 4
  for (int d = 0; d < dims; ++d) {
    const ElementPair<Element> keys = pairs[page_at + d * kPairs + thread % kPairs];
    const OfRows<kRows> of_rows = query[stages.KeyDim(stage) + d];
    const float first = keys.first();
    const float second = keys.second();
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      sums[0][row] = fmaf(of_rows.of[row], first, sums[0][row]);
      sums[1][row] = fmaf(of_rows.of[row], second, sums[1][row]);
    }
  }
}

/// A warp turns the scores of one row into weights, those of scaled values times their scales.
/// scores: from first_score on. result: maximum and sum.
template <typename Element>
__device__ void Weights(const Visible& visible, const SharedArray<float>& scores, int first_score,
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
    scores[first_score + t] = visible.Has(t) ? Exp(scores[first_score + t] - maximum) : 0.0F;
  }
  __syncwarp();
  float sum = 0.0F;
  if (lane < kSumLanes) {
    for (int t = lane; t < kChunkTokens; t += kSumLanes) sum += scores[first_score + t];
  }
  for (unsigned half = kSumLanes / 2; half > 0; half /= 2) {
    sum += __shfl_down_sync(kAllLanes, sum, half);
  }
  if constexpr (kScaled<Element>) {
    const ChunkScales scales;
    __syncwarp();
    for (int t = lane; t < kChunkTokens; t += static_cast<int>(kWarpThreads)) {
      if (visible.Has(t)) scores[first_score + t] = scores[first_score + t] * scales.value(t);
    }
  }
  if (lane == 0) {
    result[0] = maximum;
    result[1] = sum;
  }
}

/// Which rows and dimensions of the values a thread adds: two dimensions of `rows` rows from
/// first_row on.
template <int kRows>
struct ValueLane {
  int pair;
  int first_row;
  int rows;

  __device__ explicit ValueLane(int head_dim) {
    constexpr int kWarp = static_cast<int>(kWarpThreads);
    const int lanes = (head_dim / 2 + kWarp - 1) / kWarp * kWarp;
    int groups = kAttendThreads / lanes;
    if (groups > kRows) groups = kRows;
    rows = (kRows + groups - 1) / groups;
    const int thread = static_cast<int>(threadIdx.x);
    pair = thread % lanes;
    first_row = thread / lanes * rows;
    if (pair >= head_dim / 2) rows = 0;
    if (first_row + rows > kRows) rows = first_row < kRows ? kRows - first_row : 0;
  }
};

/// sums += four positions from t on, which all rows see, times their weights.
template <typename Element, int kRows>
__device__ void AddFourValues(const PairArray<Element>& pairs, int first_pair, int row_pairs,
                              const SharedArray<OfRows<4>>& weights, int t,
                              const ValueLane<kRows>& lane, float (&sums)[kRows][2]) {
  ElementPair<Element> values[4];
#pragma unroll
  for (int u = 0; u < 4; ++u) values[u] = pairs[first_pair + u * row_pairs];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    if (i >= lane.rows) continue;
    const OfRows<4> of_row = weights[((lane.first_row + i) * kChunkTokens + t) / 4];
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      sums[i][0] = fmaf(of_row.of[u], values[u].first(), sums[i][0]);
      sums[i][1] = fmaf(of_row.of[u], values[u].second(), sums[i][1]);
    }
  }
}

/// Adds a stage of values times their weights: one chain a row and dimension, positions ascending.
/// Rows that are not there have sums that nobody wants.
template <typename Element, int kHeads, int kTokens>
__device__ void AddValues(const ChunkStages<Element>& stages, int stage,
                          const ChunkWork<kHeads, kTokens>& work, int weights_at,
                          const ValueLane<kHeads * kTokens>& lane,
                          float (&sums)[kHeads * kTokens][2]) {
  constexpr int kRows = kHeads * kTokens;
  if (lane.rows == 0) return;
  const PairArray<Element> pairs(stages.At(stage));
  const int first = stages.ValueToken(stage);
  const int row_pairs = stages.head_dim / 2;
  bool all_visible = true;
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    const Visible& visible = work.of_tokens[t];
    if (visible.any() && (visible.begin > first || visible.end < first + stages.value_tokens)) {
      all_visible = false;
    }
  }
  if (all_visible) {
    const SharedArray<OfRows<4>> weights(static_cast<size_t>(weights_at));
    for (int t = 0; t < stages.value_tokens; t += 4) {
      AddFourValues<Element, kRows>(pairs, t * row_pairs + lane.pair, row_pairs, weights, first + t,
                                    lane, sums);
    }
    return;
  }
  const SharedArray<float> weights(static_cast<size_t>(weights_at));
  for (int t = first; t < first + stages.value_tokens; ++t) {
    if (!work.visible.Has(t)) continue;
    const ElementPair<Element> values = pairs[(t - first) * row_pairs + lane.pair];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int row = lane.first_row + i;
      if (i >= lane.rows || !work.of_tokens[row / kHeads].Has(t)) continue;
      const float weight = weights[row * kChunkTokens + t];
      sums[i][0] = fmaf(weight, values.first(), sums[i][0]);
      sums[i][1] = fmaf(weight, values.second(), sums[i][1]);
    }
  }
}

/// Attends one chunk. All threads of the block come.
template <typename Element, int kHeads, int kTokens>
__device__ void AttendChunk(const AttentionStep& step, const TokenPlaces& places,
                            const CacheLayer& layer, const ChunkWork<kHeads, kTokens>& work) {
  constexpr int kRows = kHeads * kTokens;
  const int n = step.head_dim;
  const int thread = static_cast<int>(threadIdx.x);
  constexpr int kQueryAt = kStages * kStageBytes + kScalesBytes<Element>;
  const SharedArray<float> query(kQueryAt);  // [n, kRows]
  const int scores_at = kQueryAt + 4 * kRows * n;
  const SharedArray<float> scores(static_cast<size_t>(scores_at));  // [kRows, 256]
  const ChunkStages<Element> stages(n, work.visible);
  const auto put = [&](int stage) { PutStage(stages, stage, places, layer, work); };
#pragma unroll
  for (int stage = 0; stage < kStages - 1; ++stage) put(stage);
  for (int i = thread; i < kRows * n; i += kAttendThreads) {
    const int row = i / n;
    const int64_t head =
        (work.first_token + row / kHeads) * step.query_heads + work.run.first_head + row % kHeads;
    query[i % n * kRows + row] = work.HasRow(row) ? step.query[head * n + i % n] : 0.0F;
  }

  float products[2][kRows] = {};
  const bool has_page = work.HasPage(2 * thread / kPageTokens);
  int stage = 0;
  for (; stage < stages.key_stages; ++stage) {
    WaitForCopies<kStages - 2>();
    // Behind it the stage has arrived for all, and nobody reads the one that is written next.
    __syncthreads();
    put(stage + kStages - 1);
    if (has_page) {
      AddKeys<Element, kRows>(stages, stage, SharedArray<OfRows<kRows>>(kQueryAt), products);
    }
  }
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    const Visible& visible = work.of_tokens[row / kHeads];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int t = 2 * thread + i;
      float score = -INFINITY;
      if (visible.Has(t)) {
        if constexpr (kScaled<Element>) products[i][row] *= ChunkScales().key(t);
        score = products[i][row] * step.scale;
      }
      scores[row * kChunkTokens + t] = score;
    }
  }
  __syncthreads();
  const auto result = [&](int row) {
    const int64_t token = work.first_token + row / kHeads - step.first_token;
    const int64_t head = token * step.query_heads + work.run.first_head + row % kHeads;
    return step.results + (head * step.chunks + blockIdx.x) * (n + 2);
  };
  for (int row = thread / static_cast<int>(kWarpThreads); row < kRows; row += kWarps) {
    if (!work.HasRow(row)) continue;
    Weights<Element>(work.of_tokens[row / kHeads], scores, row * kChunkTokens, result(row) + n);
  }

  const ValueLane<kRows> lane(n);
  float sums[kRows][2] = {};
  for (; stage < stages.stages; ++stage) {
    WaitForCopies<kStages - 2>();
    __syncthreads();
    put(stage + kStages - 1);
    AddValues<Element, kHeads, kTokens>(stages, stage, work, scores_at, lane, sums);
  }
  WaitForCopies<0>();  // of groups without copies
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int row = lane.first_row + i;
    if (i >= lane.rows || !work.HasRow(row)) continue;
    result(row)[2 * lane.pair] = sums[i][0];
    result(row)[2 * lane.pair + 1] = sums[i][1];
  }
}

/// gridDim.x chunks, gridDim.y runs of heads, gridDim.z groups of kTokens tokens.
template <typename Element, int kHeads, int kTokens>
__global__ void __launch_bounds__(kAttendThreads, kResident)
    AttendChunkKernel(AttentionStep step, TokenPlaces places, CacheLayer layer) {
  BeginKernel();
  int64_t token = step.first_token + int64_t{blockIdx.z} * kTokens;
  const int64_t left = step.first_token + step.tokens - token;
  const int64_t end = token + (left < kTokens ? left : kTokens);
  while (token < end) {
    const ChunkWork<kHeads, kTokens> work(step, places, layer, token, end);
    if (work.visible.any()) {
      AttendChunk<Element>(step, places, layer, work);
      __syncthreads();
    }
    token += work.tokens;
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

template <typename Element, int kHeads, int kTokens>
void LaunchChunks(CudaStream stream, const AttentionStep& step, const TokenPlaces& places,
                  const CacheLayer& layer) {
  constexpr int kRows = kHeads * kTokens;
  constexpr auto kSharedBytes = [](int head_dim) {
    return kStages * kStageBytes + kScalesBytes<Element> + 4 * kRows * (head_dim + kChunkTokens);
  };
  const auto kernel = AttendChunkKernel<Element, kHeads, kTokens>;
  static const bool allowed = AllowSharedBytes(kernel, kSharedBytes(kMostHeadDim));
  static_cast<void>(allowed);
  const dim3 grid(static_cast<unsigned>(step.chunks), static_cast<unsigned>(step.run_count),
                  Blocks(step.tokens, kTokens));
  Launch(stream, grid, kAttendThreads, static_cast<size_t>(kSharedBytes(step.head_dim)), kernel,
         step, places, layer);
}

template <typename Element, int kHeads>
void LaunchChunks(CudaStream stream, const AttentionStep& step, const TokenPlaces& places,
                  const CacheLayer& layer) {
  constexpr int kTokensTogether = kHeads >= 8 ? 2 : 4;
  if (step.neighbours) {
    LaunchChunks<Element, kHeads, kTokensTogether>(stream, step, places, layer);
  } else {
    LaunchChunks<Element, kHeads, 1>(stream, step, places, layer);
  }
}

template <typename Element>
void LaunchChunks(CudaStream stream, const AttentionStep& step, const TokenPlaces& places,
                  const CacheLayer& layer) {
  static_assert(kMostHeadsTogether == 8);
  if (step.largest_run == 1) {
    LaunchChunks<Element, 1>(stream, step, places, layer);
  } else if (step.largest_run == 2) {
    LaunchChunks<Element, 2>(stream, step, places, layer);
  } else if (step.largest_run <= 4) {
    LaunchChunks<Element, 4>(stream, step, places, layer);
  } else {
    LaunchChunks<Element, kMostHeadsTogether>(stream, step, places, layer);
  }
}

}  // namespace

void LaunchAttention(CudaStream stream, const AttentionStep& step, const TokenPlaces& places,
                     const CacheLayer& layer, KvDtype dtype) {
  switch (dtype) {
    case KvDtype::kF16:
      LaunchChunks<uint16_t>(stream, step, places, layer);
      break;
    case KvDtype::kF32:
      LaunchChunks<float>(stream, step, places, layer);
      break;
    case KvDtype::kF8:
      LaunchChunks<Float8>(stream, step, places, layer);
      break;
  }
  const dim3 grid(static_cast<unsigned>(step.query_heads), static_cast<unsigned>(step.tokens));
  Launch(stream, grid, kCombineThreads, 0, CombineChunksKernel, step, places);
}

}  // namespace tandem::core
