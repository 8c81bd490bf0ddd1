#pragma once

#include <cmath>

#include "core/cpu/simd/lanes_math.h"
#include "core/cuda/attention/attention_kernels.h"
#include "core/cuda/attention/cache_pages.h"
#include "core/cuda/kernels/device_code.h"
#include "core/cuda/kernels/gpu_lane.h"
#include "core/cuda/kernels/launch.h"

/// Attention over one chunk, of dense attention and of sparse. Private to the kernels of both.
///
/// Work, what a block does, has: first_token; start, the chunk's first position; run; of_tokens
/// [kTokensTogether], what each token sees of the chunk; visible, a range of all that; HasRow and
/// HasPage. Row kHeadsTogether * t + h is head h of token t. kSkipsPages: pages that nobody sees
/// may lie within `visible`.
namespace tandem::core {
namespace {

constexpr int kWarps = kAttendThreads / static_cast<int>(kWarpThreads);
constexpr int kSumLanes = 16;  // of a softmax's sum (numerics.md, rule 5)
constexpr unsigned kAllLanes = 0xffffffff;

constexpr unsigned kCombineThreads = 128;

__device__ float Exp(float x) { return LanesExp(GpuLane::Set(x)).v; }

__device__ int ClampToChunk(int64_t offset) {
  return static_cast<int>(offset < 0 ? 0 : offset > kChunkTokens ? kChunkTokens : offset);
}

template <int kRows>
struct alignas(kRows % 4 == 0 ? 16 : 4 * kRows) OfRows {
  float of[kRows];
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
template <typename Element, typename Seen>
__device__ void Weights(const Seen& visible, const SharedArray<float>& scores, int first_score,
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
template <typename Element, typename Work>
__device__ void AddValues(const ChunkStages<Element>& stages, int stage, const Work& work,
                          int weights_at, const ValueLane<Work::kRows>& lane,
                          float (&sums)[Work::kRows][2]) {
  constexpr int kHeads = Work::kHeadsTogether;
  constexpr int kTokens = Work::kTokensTogether;
  constexpr int kRows = Work::kRows;
  if (lane.rows == 0) return;
  const PairArray<Element> pairs(stages.At(stage));
  const int first = stages.ValueToken(stage);
  if constexpr (Work::kSkipsPages) {
    if (!work.HasPage(first / kPageTokens)) return;
  }
  const int row_pairs = stages.head_dim / 2;
  bool all_visible = true;
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    const auto& visible = work.of_tokens[t];
    if (visible.any() && !visible.HasAll(first, first + stages.value_tokens)) all_visible = false;
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

/// Attends one chunk, whose results are the block's of step.results. All threads of the block come.
template <typename Element, typename Work>
__device__ void AttendChunk(const AttentionStep& step, const TokenPlaces& places,
                            const CacheLayer& layer, const Work& work) {
  constexpr int kHeads = Work::kHeadsTogether;
  constexpr int kRows = Work::kRows;
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
    const auto& visible = work.of_tokens[row / kHeads];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int t = 2 * thread + i;
      float score = -INFINITY;
      if (visible.Has(t)) {
        if constexpr (kScaled<Element>) products[i][row] *= ChunkScales().key(t);
        score = products[i][row] * step.scale;
        if (step.slopes != nullptr) {
          const int64_t position = places.positions[work.first_token + row / kHeads];
          score = fmaf(step.slopes[work.run.first_head + row % kHeads],
                       static_cast<float>(work.start + t - position), score);
        }
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
    AddValues<Element>(stages, stage, work, scores_at, lane, sums);
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

/// Shared memory of a block.
template <typename Element, int kRows>
constexpr int AttendBytes(int head_dim) {
  return kStages * kStageBytes + kScalesBytes<Element> + 4 * kRows * (head_dim + kChunkTokens);
}

/// Neighbouring tokens of a block, where there are any.
template <int kHeads>
inline constexpr int kMostTokensTogether = kHeads >= 8 ? 2 : 4;

}  // namespace
}  // namespace tandem::core
