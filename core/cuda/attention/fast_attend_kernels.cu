#include <cmath>

#include "core/cuda/attention/attention_kernels.h"
#include "core/cuda/attention/cache_pages.h"
#include "core/cuda/kernels/device_code.h"
#include "core/cuda/kernels/launch.h"

/// Attention of many tokens in fast mode: tensor cores, float16, page after page with a running
/// maximum. Source: Dao 2023 (FlashAttention-2).
namespace tandem::core {
namespace {

constexpr int kWarps = 4;
constexpr int kWarpRows = 16;  // of a tensor core's product
constexpr int kRows = kWarps * kWarpRows;
constexpr int kThreads = kWarps * static_cast<int>(kWarpThreads);
constexpr int kPadding = 16;  // bytes behind a row, so that eight lie in different banks
constexpr int kKeyRow = kPageTokens * 2 + kPadding;  // one dimension of all keys of a page
constexpr unsigned kAllLanes = 0xffffffff;
constexpr float kLog2E = 1.44269504F;

/// Where things lie in shared memory, by bytes; two pages of keys and values.
template <int kDim>
struct FastLayout {
  static constexpr int kValueRow = kDim * 2 + kPadding;  // all dimensions of one value, or query
  static constexpr int kKeysBytes = kDim * kKeyRow;
  static constexpr int kPageBytes = kKeysBytes + kPageTokens * kValueRow;
  static constexpr int kQueryAt = 2 * kPageBytes;
  static constexpr int kSharedBytes = kQueryAt + kRows * kValueRow;
};

/// Neighbouring tokens of one sequence, and the query heads of a run. Row r is head r % heads of
/// token r / heads; there are at most kRows.
struct FastWork {
  int64_t first_token;
  int tokens;
  HeadRun run;
  int64_t first_page;  // that any of them sees
  int64_t pages;
  int last_slot;  // of the last page, that any of them sees

  __device__ FastWork(const AttentionStep& step, const TokenPlaces& places, const CacheLayer& layer,
                      int64_t first, int64_t end)
      : first_token(first), tokens(1), run(step.runs[blockIdx.x]) {
    while (first + tokens < end &&
           layer.table_begins[first + tokens] == layer.table_begins[first]) {
      ++tokens;
    }
    first_page = FirstVisible(places.positions[first], step.window) / kPageTokens;
    const int64_t last = places.positions[first + tokens - 1];
    pages = last / kPageTokens - first_page + 1;
    last_slot = static_cast<int>(last % kPageTokens);
  }
  __device__ int rows() const { return tokens * run.count; }
};

/// One row of a thread: its token's position, and its softmax so far.
struct RowState {
  int64_t first = 0;  // visible: [first, last]
  int64_t last = -1;
  float maximum = -INFINITY;
  float sum = 0.0F;
};

template <int kDim>
__device__ void PutPage(const TokenPlaces& places, const CacheLayer& layer, const FastWork& work,
                        int64_t page) {
  using Layout = FastLayout<kDim>;
  if (page < work.pages) {
    const auto* keys = KeysOf<uint16_t>(places, layer, work.first_token,
                                        (work.first_page + page) * kPageTokens, work.run.kv_head);
    const uint16_t* values = keys + kPageTokens * kDim;
    const int at = static_cast<int>(page % 2) * Layout::kPageBytes;
    constexpr int kKeyPieces = kPageTokens / 8;
    for (int i = static_cast<int>(threadIdx.x); i < kDim * kKeyPieces; i += kThreads) {
      CopyAsync<16>(at + i / kKeyPieces * kKeyRow + i % kKeyPieces * 16, keys + 8 * i);
    }
    constexpr int kValuePieces = kDim / 8;
    for (int i = static_cast<int>(threadIdx.x); i < kPageTokens * kValuePieces; i += kThreads) {
      CopyAsync<16>(
          at + Layout::kKeysBytes + i / kValuePieces * Layout::kValueRow + i % kValuePieces * 16,
          values + 8 * i);
    }
  }
  CommitCopies();
}

__device__ uint32_t Halves(float first, float second) {
  return uint32_t{__half_as_ushort(__float2half_rn(first))} |
         uint32_t{__half_as_ushort(__float2half_rn(second))} << 16;
}

/// scores = the warp's 16 rows times a page's keys: of 8 groups of 8 keys, as MultiplyHalves has
/// it.
template <int kDim>
__device__ void ScorePage(int keys_at, const uint32_t (&query)[kDim / 16][4],
                          float (&scores)[kPageTokens / 8][4]) {
  const int lane = static_cast<int>(threadIdx.x % kWarpThreads);
#pragma unroll
  for (int group = 0; group < kPageTokens / 8; group += 2) {
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[group][i] = scores[group + 1][i] = 0.0F;
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      // Matrices: dimensions 0-7 and 8-15 of the first eight keys, then of the next.
      uint32_t keys[4];
      LoadMatrices<true>(keys_at + (16 * k + lane % 16) * kKeyRow + 16 * (group + lane / 16), keys);
      MultiplyHalves(query[k], keys[0], keys[1], scores[group]);
      MultiplyHalves(query[k], keys[2], keys[3], scores[group + 1]);
    }
  }
}

/// Turns scores of a page into weights, and gives by how much what was summed before shrinks.
__device__ void WeighPage(float scale, int64_t start, RowState (&rows)[2],
                          float (&scores)[kPageTokens / 8][4], float (&shrink)[2]) {
  const int two = 2 * static_cast<int>(threadIdx.x % 4);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    RowState& row = rows[r];
    float maximum = row.maximum;
#pragma unroll
    for (int group = 0; group < kPageTokens / 8; ++group) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int64_t position = start + 8 * group + two + i;
        float& score = scores[group][2 * r + i];
        score = position >= row.first && position <= row.last ? score * scale : -INFINITY;
        maximum = score > maximum ? score : maximum;
      }
    }
    for (int other = 1; other < 4; other *= 2) {
      const float theirs = __shfl_xor_sync(kAllLanes, maximum, other);
      maximum = theirs > maximum ? theirs : maximum;
    }
    // A row that has seen nothing yet has nothing to shrink.
    const float base = maximum == -INFINITY ? 0.0F : maximum;
    shrink[r] = NearExp2((row.maximum - base) * kLog2E);
    row.maximum = maximum;
    float sum = 0.0F;
#pragma unroll
    for (int group = 0; group < kPageTokens / 8; ++group) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& score = scores[group][2 * r + i];
        score = NearExp2((score - base) * kLog2E);
        sum += score;
      }
    }
    row.sum = fmaf(row.sum, shrink[r], sum);
  }
}

/// out += weights times a page's values; first what is there shrinks.
template <int kDim>
__device__ void AddPage(int values_at, const float (&weights)[kPageTokens / 8][4],
                        const float (&shrink)[2], float (&out)[kDim / 8][4]) {
  using Layout = FastLayout<kDim>;
  const int lane = static_cast<int>(threadIdx.x % kWarpThreads);
#pragma unroll
  for (int group = 0; group < kDim / 8; ++group) {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[group][i] *= shrink[i / 2];
  }
#pragma unroll
  for (int k = 0; k < kPageTokens / 16; ++k) {
    // The sums of two groups of keys lie as the elements of a product's rows do.
    const float(&low)[4] = weights[2 * k];
    const float(&high)[4] = weights[2 * k + 1];
    const uint32_t of_rows[4] = {Halves(low[0], low[1]), Halves(low[2], low[3]),
                                 Halves(high[0], high[1]), Halves(high[2], high[3])};
#pragma unroll
    for (int group = 0; group < kDim / 8; group += 2) {
      uint32_t values[4];
      LoadMatrices<true>(
          values_at + (16 * k + lane % 16) * Layout::kValueRow + 16 * (group + lane / 16), values);
      MultiplyHalves(of_rows, values[0], values[1], out[group]);
      MultiplyHalves(of_rows, values[2], values[3], out[group + 1]);
    }
  }
}

/// Zeros the values from `slot` on, which nobody wrote: a weight of 0 times them is to be 0.
template <int kDim>
__device__ void ClearValues(int values_at, int slot) {
  using Layout = FastLayout<kDim>;
  const SharedArray<uint32_t> words(static_cast<size_t>(values_at));
  constexpr int kWords = kDim / 2;
  for (int i = static_cast<int>(threadIdx.x); i < (kPageTokens - slot) * kWords; i += kThreads) {
    words[(slot + i / kWords) * Layout::kValueRow / 4 + i % kWords] = 0;
  }
}

/// All threads of the block come.
template <int kDim>
__device__ void AttendRows(const AttentionStep& step, const TokenPlaces& places,
                           const CacheLayer& layer, const FastWork& work) {
  using Layout = FastLayout<kDim>;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % static_cast<int>(kWarpThreads);
  const int warp_row = thread / static_cast<int>(kWarpThreads) * kWarpRows;
  const auto head_of = [&](int row) {
    return (work.first_token + row / work.run.count) * step.query_heads + work.run.first_head +
           row % work.run.count;
  };
  PutPage<kDim>(places, layer, work, 0);
  const SharedArray<uint32_t> words(Layout::kQueryAt);
  for (int i = thread; i < kRows * kDim / 2; i += kThreads) {
    const int row = i / (kDim / 2);
    const int pair = i % (kDim / 2);
    const float* query =
        step.query + (row < work.rows() ? head_of(row) : head_of(0)) * kDim + 2 * pair;
    words[row * Layout::kValueRow / 4 + pair] = Halves(query[0], query[1]);
  }
  __syncthreads();
  uint32_t query[kDim / 16][4];
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    // Matrices: rows 0-7 and 8-15 of eight elements, then of the next eight.
    LoadMatrices<false>(
        Layout::kQueryAt + (warp_row + lane % 16) * Layout::kValueRow + 32 * k + 16 * (lane / 16),
        query[k]);
  }
  RowState rows[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = warp_row + lane / 4 + 8 * r;
    if (row >= work.rows()) continue;
    const int64_t position = places.positions[work.first_token + row / work.run.count];
    rows[r].first = FirstVisible(position, step.window);
    rows[r].last = position;
  }

  float out[kDim / 8][4] = {};
  for (int64_t page = 0; page < work.pages; ++page) {
    WaitForCopies<0>();
    // Behind it the page has arrived for all, and nobody reads the other one.
    __syncthreads();
    PutPage<kDim>(places, layer, work, page + 1);
    const int at = static_cast<int>(page % 2) * Layout::kPageBytes;
    if (page == work.pages - 1 && work.last_slot < kPageTokens - 1) {
      ClearValues<kDim>(at + Layout::kKeysBytes, work.last_slot + 1);
      __syncthreads();
    }
    float scores[kPageTokens / 8][4];
    ScorePage<kDim>(at, query, scores);
    float shrink[2];
    WeighPage(step.scale, (work.first_page + page) * kPageTokens, rows, scores, shrink);
    AddPage<kDim>(at + Layout::kKeysBytes, scores, shrink, out);
  }
  WaitForCopies<0>();  // of a group without copies
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float sum = rows[r].sum;
    for (int other = 1; other < 4; other *= 2) sum += __shfl_xor_sync(kAllLanes, sum, other);
    const int row = warp_row + lane / 4 + 8 * r;
    if (row >= work.rows()) continue;
    float* to = step.out + head_of(row) * kDim + 2 * (lane % 4);
#pragma unroll
    for (int group = 0; group < kDim / 8; ++group) {
      to[8 * group] = out[group][2 * r] / sum;
      to[8 * group + 1] = out[group][2 * r + 1] / sum;
    }
  }
}

/// gridDim.x runs of heads, gridDim.y groups of kRows / largest_run tokens.
template <int kDim>
__global__ void __launch_bounds__(kThreads, 1)
    FastAttentionKernel(AttentionStep step, TokenPlaces places, CacheLayer layer) {
  BeginKernel();
  const int together = kRows / step.largest_run;
  int64_t token = step.first_token + int64_t{blockIdx.y} * together;
  const int64_t left = step.first_token + step.tokens - token;
  const int64_t end = token + (left < together ? left : together);
  while (token < end) {
    const FastWork work(step, places, layer, token, end);
    AttendRows<kDim>(step, places, layer, work);
    __syncthreads();
    token += work.tokens;
  }
}

template <int kDim>
void LaunchOf(CudaStream stream, const AttentionStep& step, const TokenPlaces& places,
              const CacheLayer& layer) {
  static const bool allowed =
      AllowSharedBytes<FastLayout<kDim>::kSharedBytes>(FastAttentionKernel<kDim>);
  static_cast<void>(allowed);
  const dim3 grid(static_cast<unsigned>(step.run_count),
                  Blocks(step.tokens, kRows / step.largest_run));
  Launch(stream, grid, kThreads, FastLayout<kDim>::kSharedBytes, FastAttentionKernel<kDim>, step,
         places, layer);
}

}  // namespace

bool HasFastAttention(int head_dim, KvDtype dtype) {
  return dtype == KvDtype::kF16 &&
         (head_dim == 64 || head_dim == 80 || head_dim == 96 || head_dim == 128);
}

void LaunchFastAttention(CudaStream stream, const AttentionStep& step, const TokenPlaces& places,
                         const CacheLayer& layer) {
  switch (step.head_dim) {
    case 64:
      return LaunchOf<64>(stream, step, places, layer);
    case 80:
      return LaunchOf<80>(stream, step, places, layer);
    case 96:
      return LaunchOf<96>(stream, step, places, layer);
    default:
      return LaunchOf<128>(stream, step, places, layer);
  }
}

}  // namespace tandem::core
