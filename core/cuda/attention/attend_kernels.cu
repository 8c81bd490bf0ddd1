#include "core/cuda/attention/attend_chunk.h"
#include "core/cuda/kernels/launch.h"

namespace tandem::core {
namespace {

constexpr int kResident = 4;  // blocks on a multiprocessor: leaves enough registers to spill none

/// What a block works on: a run of query heads of up to kTokens neighbouring tokens of a sequence,
/// which read the same pages, and one chunk. Row kHeads * t + h is head h of token t.
template <int kHeads, int kTokens>
struct ChunkWork {
  static constexpr int kHeadsTogether = kHeads;
  static constexpr int kTokensTogether = kTokens;
  static constexpr int kRows = kHeads * kTokens;
  static constexpr bool kSkipsPages = false;

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
  constexpr auto kSharedBytes = AttendBytes<Element, kHeads * kTokens>;
  const auto kernel = AttendChunkKernel<Element, kHeads, kTokens>;
  static const bool allowed = AllowSharedBytes<kSharedBytes(kMostHeadDim)>(kernel);
  static_cast<void>(allowed);
  const dim3 grid(static_cast<unsigned>(step.chunks), static_cast<unsigned>(step.run_count),
                  Blocks(step.tokens, kTokens));
  Launch(stream, grid, kAttendThreads, static_cast<size_t>(kSharedBytes(step.head_dim)), kernel,
         step, places, layer);
}

template <typename Element, int kHeads>
void LaunchChunks(CudaStream stream, const AttentionStep& step, const TokenPlaces& places,
                  const CacheLayer& layer) {
  if (step.neighbours) {
    LaunchChunks<Element, kHeads, kMostTokensTogether<kHeads>>(stream, step, places, layer);
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
