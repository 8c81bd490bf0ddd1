#include "core/cuda/attention/attend_chunk.h"
#include "core/cuda/attention/sparse_attention_kernels.h"
#include "core/cuda/kernels/launch.h"

namespace tandem::core {
namespace {

constexpr int kResident = 3;  // blocks on a multiprocessor: leaves enough registers to spill none

/// What a token sees of a chunk: of [begin, end) what is below `global`, from `diagonal` on, or in
/// a chosen page.
struct SparseVisible {
  int begin;
  int end;
  int global;
  int diagonal;
  unsigned chosen;

  __device__ bool Chose(int page) const { return (chosen >> page & 1U) != 0; }
  __device__ bool Has(int t) const {
    return t >= begin && t < end && (t < global || t >= diagonal || Chose(t / kPageTokens));
  }
  /// Of a page's part.
  __device__ bool HasAll(int first, int last) const {
    return first >= begin && last <= end &&
           (last <= global || first >= diagonal || Chose(first / kPageTokens));
  }
  __device__ bool HasPage(int page) const {
    const int first = page * kPageTokens > begin ? page * kPageTokens : begin;
    const int last = (page + 1) * kPageTokens < end ? (page + 1) * kPageTokens : end;
    return first < last && (first < global || last > diagonal || Chose(page));
  }
  __device__ unsigned Pages() const {
    unsigned pages = 0;
#pragma unroll
    for (int page = 0; page < kChunkPages; ++page) pages |= (HasPage(page) ? 1U : 0U) << page;
    return pages;
  }
  __device__ bool any() const { return begin < end; }

  /// chosen: of this token and chunk.
  static __device__ SparseVisible Of(const AttentionStep& step, const SparseStep& sparse,
                                     int64_t position, int64_t start, unsigned chosen) {
    SparseVisible visible{ClampToChunk(FirstVisible(position, step.window) - start),
                          ClampToChunk(position + 1 - start), ClampToChunk(sparse.global - start),
                          ClampToChunk(FirstVisible(position, sparse.window) - start), chosen};
    // Then all is seen, which the parts of a page need not show.
    if (visible.diagonal <= visible.global) visible.diagonal = 0;
    if (visible.Pages() == 0) visible.end = visible.begin;
    return visible;
  }
};

/// As ChunkWork (attend_kernels.cu).
template <int kHeads, int kTokens>
struct SparseChunkWork {
  static constexpr int kHeadsTogether = kHeads;
  static constexpr int kTokensTogether = kTokens;
  static constexpr int kRows = kHeads * kTokens;
  static constexpr bool kSkipsPages = true;

  int64_t first_token;
  int tokens;
  int64_t start;  // position
  HeadRun run;
  SparseVisible of_tokens[kTokens];
  Visible visible;  // from the first page that any of them sees to the last
  unsigned pages;   // bit p: some token sees some of page p

  /// The tokens from `first` on that are of one sequence, `end` at most. group: its first token.
  __device__ SparseChunkWork(const AttentionStep& step, const SparseStep& sparse,
                             const SparseChunk& chunk, const TokenPlaces& places,
                             const CacheLayer& layer, int64_t group, int64_t first, int64_t end)
      : first_token(first),
        tokens(0),
        start(int64_t{chunk.chunk} * kChunkTokens),
        run(step.runs[blockIdx.y]),
        visible{kChunkTokens, 0},
        pages(0) {
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      of_tokens[t] = {0, 0, 0, 0, 0};
      const int64_t token = first + t;
      if (t > tokens || token >= end || layer.table_begins[token] != layer.table_begins[first]) {
        continue;
      }
      tokens = t + 1;
      const auto in_group = static_cast<unsigned>(token - group);
      of_tokens[t] =
          SparseVisible::Of(step, sparse, places.positions[token], start,
                            chunk.chosen >> (in_group * kChunkPages) & ((1U << kChunkPages) - 1));
      pages |= of_tokens[t].any() ? of_tokens[t].Pages() : 0;
    }
#pragma unroll
    for (int page = 0; page < kChunkPages; ++page) {
      if (!HasPage(page)) continue;
      if (page * kPageTokens < visible.begin) visible.begin = page * kPageTokens;
      visible.end = (page + 1) * kPageTokens;
    }
  }
  __device__ bool HasRow(int row) const {
    return row % kHeads < run.count && of_tokens[row / kHeads].any();
  }
  __device__ bool HasPage(int page) const { return (pages >> page & 1U) != 0; }
};

/// gridDim.x chunks of a group, gridDim.y runs of heads, gridDim.z groups of kTokens tokens.
template <typename Element, int kHeads, int kTokens>
__global__ void __launch_bounds__(kAttendThreads, kResident)
    SparseChunkKernel(AttentionStep step, SparseStep sparse, TokenPlaces places, CacheLayer layer) {
  BeginKernel();
  const int64_t group = step.first_token + int64_t{blockIdx.z} * kTokens;
  const int32_t* begin = sparse.begins + group / kTokens;
  if (static_cast<int>(blockIdx.x) >= begin[1] - begin[0]) return;
  const SparseChunk chunk = sparse.chunks[begin[0] + static_cast<int>(blockIdx.x)];
  const int64_t left = step.first_token + step.tokens - group;
  const int64_t end = group + (left < kTokens ? left : kTokens);
  for (int64_t token = group; token < end;) {
    const SparseChunkWork<kHeads, kTokens> work(step, sparse, chunk, places, layer, group, token,
                                                end);
    if (work.visible.any()) {
      AttendChunk<Element>(step, places, layer, work);
      __syncthreads();
    }
    token += work.tokens;
  }
}

/// A block adds the chunks of one head of one token up. group_tokens: of a group.
__global__ void CombineSparseKernel(AttentionStep step, SparseStep sparse, TokenPlaces places,
                                    int group_tokens) {
  BeginKernel();
  const int64_t token = step.first_token + blockIdx.y;
  const int n = step.head_dim;
  const int32_t* begin = sparse.begins + token / group_tokens;
  const int count = begin[1] - begin[0];
  const auto sees = [&](int c) {
    const SparseChunk chunk = sparse.chunks[begin[0] + c];
    const auto in_group = static_cast<unsigned>(token % group_tokens);
    return SparseVisible::Of(step, sparse, places.positions[token],
                             int64_t{chunk.chunk} * kChunkTokens,
                             chunk.chosen >> (in_group * kChunkPages) & ((1U << kChunkPages) - 1))
        .any();
  };
  const int64_t head = int64_t{blockIdx.y} * step.query_heads + blockIdx.x;
  const float* results = step.results + head * step.chunks * (n + 2);
  float maximum = -INFINITY;
  for (int c = 0; c < count; ++c) {
    if (!sees(c)) continue;
    const float of_chunk = results[int64_t{c} * (n + 2) + n];
    maximum = maximum < of_chunk ? of_chunk : maximum;
  }
  for (int d = static_cast<int>(threadIdx.x); d < n; d += static_cast<int>(blockDim.x)) {
    float sum = 0.0F;
    float out = 0.0F;
    for (int c = 0; c < count; ++c) {
      if (!sees(c)) continue;
      const float* of_chunk = results + int64_t{c} * (n + 2);
      const float factor = Exp(of_chunk[n] - maximum);
      sum = fmaf(factor, of_chunk[n + 1], sum);
      out = fmaf(factor, of_chunk[d], out);
    }
    step.out[(token * step.query_heads + blockIdx.x) * n + d] = __fdiv_rn(out, sum);
  }
}

template <typename Element, int kHeads, int kTokens>
void LaunchChunks(CudaStream stream, const AttentionStep& step, const SparseStep& sparse,
                  const TokenPlaces& places, const CacheLayer& layer) {
  constexpr auto kSharedBytes = AttendBytes<Element, kHeads * kTokens>;
  const auto kernel = SparseChunkKernel<Element, kHeads, kTokens>;
  static const bool allowed = AllowSharedBytes<kSharedBytes(kMostHeadDim)>(kernel);
  static_cast<void>(allowed);
  const dim3 grid(static_cast<unsigned>(step.chunks), static_cast<unsigned>(step.run_count),
                  Blocks(step.tokens, kTokens));
  Launch(stream, grid, kAttendThreads, static_cast<size_t>(kSharedBytes(step.head_dim)), kernel,
         step, sparse, places, layer);
}

template <typename Element, int kHeads>
void LaunchChunks(CudaStream stream, const AttentionStep& step, const SparseStep& sparse,
                  const TokenPlaces& places, const CacheLayer& layer) {
  if (step.neighbours) {
    LaunchChunks<Element, kHeads, kMostTokensTogether<kHeads>>(stream, step, sparse, places, layer);
  } else {
    LaunchChunks<Element, kHeads, 1>(stream, step, sparse, places, layer);
  }
}

template <typename Element>
void LaunchChunks(CudaStream stream, const AttentionStep& step, const SparseStep& sparse,
                  const TokenPlaces& places, const CacheLayer& layer) {
  static_assert(kMostHeadsTogether == 8);
  if (step.largest_run == 1) {
    LaunchChunks<Element, 1>(stream, step, sparse, places, layer);
  } else if (step.largest_run == 2) {
    LaunchChunks<Element, 2>(stream, step, sparse, places, layer);
  } else if (step.largest_run <= 4) {
    LaunchChunks<Element, 4>(stream, step, sparse, places, layer);
  } else {
    LaunchChunks<Element, kMostHeadsTogether>(stream, step, sparse, places, layer);
  }
}

}  // namespace

int SparseGroupTokens(int largest_run, bool neighbours) {
  if (!neighbours) return 1;
  return largest_run <= 4 ? kMostTokensTogether<4> : kMostTokensTogether<kMostHeadsTogether>;
}

void LaunchSparseAttention(CudaStream stream, const AttentionStep& step, const SparseStep& sparse,
                           const TokenPlaces& places, const CacheLayer& layer, KvDtype dtype) {
  switch (dtype) {
    case KvDtype::kF16:
      LaunchChunks<uint16_t>(stream, step, sparse, places, layer);
      break;
    case KvDtype::kF32:
      LaunchChunks<float>(stream, step, sparse, places, layer);
      break;
    case KvDtype::kF8:
      LaunchChunks<Float8>(stream, step, sparse, places, layer);
      break;
  }
  const dim3 grid(static_cast<unsigned>(step.query_heads), static_cast<unsigned>(step.tokens));
  Launch(stream, grid, kCombineThreads, 0, CombineSparseKernel, step, sparse, places,
         SparseGroupTokens(step.largest_run, step.neighbours));
}

}  // namespace tandem::core
