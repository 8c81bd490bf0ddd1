#pragma once

#include <cstdint>

#include "core/cpu/simd/lanes.h"
#include "core/cpu/simd/lanes_math.h"
#include "core/model/kv_view.h"

/// Private to attention*.cpp: one chunk of attention as templates over the lane type.
namespace tandem::core {

inline constexpr int kMostTileQueries = 6;
inline constexpr int kPagesPerChunk = kChunkTokens / kPageTokens;

/// Up to six queries against one chunk of one KV head. All positions are relative to the chunk's
/// first.
struct AttentionTile {
  int queries = 0;
  int head_dim = 0;
  float scale = 1.0F;
  const void* keys[kPagesPerChunk] = {};      // [head_dim, 64] each; null where no query sees any
  const void* values[kPagesPerChunk] = {};    // [64, head_dim] each
  const float* query[kMostTileQueries] = {};  // [head_dim] each
  const void* then = nullptr;        // a page that is read next by this thread, as a hint; or null
  int first[kMostTileQueries] = {};  // query i sees [first, last); empty where it sees nothing
  int last[kMostTileQueries] = {};

  // Results; those of a query that sees nothing are not written.
  float maximum[kMostTileQueries] = {};
  float sum[kMostTileQueries] = {};
  float* out[kMostTileQueries] = {};  // [head_dim] each, not yet divided

  float slope[kMostTileQueries] = {};     // AttentionQuery's
  float distance[kMostTileQueries] = {};  // of the chunk's first position from the query's: <= 0

  const float* scales[kPagesPerChunk] = {};  // KvPage's, beside `values`

  // For MaskedKernels, in place of `first` and `last`: bit i of [q][p]: query q sees token i of
  // page p. [queries]
  const uint64_t (*seen)[kPagesPerChunk] = nullptr;
};

using ChunkKernel = void (*)(AttentionTile& tile);

struct AttentionKernels {
  ChunkKernel chunk_f16;
  ChunkKernel chunk_f32;
  /// sum = fma(factor, chunk_sum, sum) of [n] elements.
  void (*accumulate)(const float* chunk, float factor, int64_t n, float* sum);
  void (*divide)(float* x, float divisor, int64_t n);
};

extern const AttentionKernels kAttentionAvx512;

/// A chunk of which a query sees more than one run of tokens (attention_masked.h).
struct MaskedKernels {
  ChunkKernel chunk_f16;
  ChunkKernel chunk_f32;
  ChunkKernel chunk_f8;
};
extern const MaskedKernels kMaskedScalar;
extern const MaskedKernels kMaskedAvx2;
extern const MaskedKernels kMaskedAvx512;

/// What a chunk of a float8 cache takes. Compiled apart: together with the others it makes the
/// compiler inline less of them.
extern const ChunkKernel kFloat8ChunkScalar;
extern const ChunkKernel kFloat8ChunkAvx2;
extern const ChunkKernel kFloat8ChunkAvx512;

// Two registers a lane set: eight of the sixteen registers are four sets.
inline constexpr int kAvx2Accumulators = 4;
inline constexpr int kAvx512Accumulators = 24;

/// kAccumulators: how many sets of lanes fit into registers beside what is being read.
template <typename Lanes, int kAccumulators>
struct AttentionOf {
  static int Min(int a, int b) { return a < b ? a : b; }
  static int Max(int a, int b) { return a > b ? a : b; }

  template <typename Element>
  static constexpr bool kScaled = sizeof(Element) == 1;

  /// Sets of lanes that are read at once for some queries.
  static constexpr int TogetherWith(int queries) {
    const int fit = kAccumulators / queries;
    return fit < 1 ? 1 : fit > 4 ? 4 : fit;
  }

  /// Asks for kGroups times 16 elements that will be read a page from now. Pages are shorter than
  /// what the processor's own prefetchers need to find their pace: without it a thread read 9 GB/s
  /// of 28. Into the second-level cache, which has more lines on their way at a time than the
  /// first.
  template <int kGroups, typename Element>
  static void Prefetch(const Element* at) {
    constexpr int kLineElements = 64 / static_cast<int>(sizeof(Element));
    constexpr int kIntoSecondLevel = 2;
    for (int i = 0; i < kGroups * kLanes; i += kLineElements)
      __builtin_prefetch(at + i, 0, kIntoSecondLevel);
  }

  /// The scales of a group of 16 tokens' keys.
  static Lanes KeyScales(const AttentionTile& tile, int token, int group) {
    return Lanes::Load(tile.scales[token / kPageTokens] + token % kPageTokens + group * kLanes);
  }

  /// scores[q][t] of kGroups groups of 16 tokens from `token` on, within one page. next: a page, or
  /// null.
  template <int kQueries, int kGroups, typename Element>
  static void ScoreGroups(const AttentionTile& tile, int first_query, const Element* keys,
                          const Element* next, float (*scores)[kChunkTokens], int token) {
    Lanes sums[kQueries][kGroups];
    for (auto& row : sums) {
      for (Lanes& sum : row) sum = Lanes::Set(0.0F);
    }
    const Element* column = keys + token % kPageTokens;
    // Without a next page the one at hand is asked for again, which costs less than a branch.
    const Element* ahead = next == nullptr ? column : next + token % kPageTokens;
    for (int d = 0; d < tile.head_dim; ++d, column += kPageTokens, ahead += kPageTokens) {
      Prefetch<kGroups>(ahead);
      Lanes key[kGroups];
      for (int g = 0; g < kGroups; ++g) key[g] = Lanes::Load(column + g * kLanes);
      for (int q = 0; q < kQueries; ++q) {
        const Lanes x = Lanes::Set(tile.query[first_query + q][d]);
        for (int g = 0; g < kGroups; ++g) sums[q][g] = Lanes::Fma(x, key[g], sums[q][g]);
      }
    }
    const Lanes scale = Lanes::Set(tile.scale);
    for (int q = 0; q < kQueries; ++q) {
      for (int g = 0; g < kGroups; ++g) {
        if constexpr (kScaled<Element>) sums[q][g] = sums[q][g] * KeyScales(tile, token, g);
        (sums[q][g] * scale).Store(scores[first_query + q] + token + g * kLanes);
      }
    }
  }

  /// scores[q][t] for all t in [begin, end), whole groups of 16.
  template <int kQueries, typename Element>
  static void Scores(const AttentionTile& tile, float (*scores)[kChunkTokens], int begin, int end) {
    constexpr int kGroups = TogetherWith(kQueries);
    for (int token = begin; token < end;) {
      const auto* keys = static_cast<const Element*>(tile.keys[token / kPageTokens]);
      const int page_end = Min(end, (token / kPageTokens + 1) * kPageTokens);
      const auto* next = static_cast<const Element*>(
          page_end < end ? tile.keys[page_end / kPageTokens] : tile.values[begin / kPageTokens]);
      if (keys == nullptr) token = page_end;
      for (; token + kGroups * kLanes <= page_end; token += kGroups * kLanes) {
        ScoreGroups<kQueries, kGroups>(tile, 0, keys, next, scores, token);
      }
      for (; token < page_end; token += kLanes) {
        ScoreGroups<kQueries, 1>(tile, 0, keys, next, scores, token);
      }
    }
  }

  /// Adds ALiBi to the scores of [begin, end), whole groups of 16. Apart, so that the kernels of
  /// models without it stay as they are.
  [[gnu::noinline]] static void AddDistances(const AttentionTile& tile, int q, int begin, int end,
                                             float* scores) {
    alignas(64) static constexpr float kSteps[kLanes] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                         8, 9, 10, 11, 12, 13, 14, 15};
    const Lanes steps = Lanes::Load(kSteps);
    const Lanes slope = Lanes::Set(tile.slope[q]);
    for (int t = begin; t < end; t += kLanes) {
      const Lanes distance = Lanes::Set(tile.distance[q] + static_cast<float>(t)) + steps;
      Lanes::Fma(slope, distance, Lanes::Load(scores + t)).Store(scores + t);
    }
  }

  /// Turns one query's scores into weights, those of scaled values times their scales; its maximum
  /// and sum.
  template <bool kTimesScales>
  static void Weights(AttentionTile& tile, int q, float* scores) {
    const int first = tile.first[q], last = tile.last[q];
    const int begin = first / kLanes * kLanes;
    const float infinity = __builtin_inff();
    Lanes maximum = Lanes::Set(-infinity);
    for (int t = begin; t < last; t += kLanes) {
      const Lanes visible =
          Lanes::KeepRange(Lanes::Load(scores + t), first - t, last - t, -infinity);
      maximum = Lanes::Max(visible, maximum);
    }
    tile.maximum[q] = Lanes::FoldMax(maximum);
    const Lanes m = Lanes::Set(tile.maximum[q]);
    Lanes sum = Lanes::Set(0.0F);
    for (int t = begin; t < last; t += kLanes) {
      const Lanes weight =
          Lanes::KeepRange(LanesExp(Lanes::Load(scores + t) - m), first - t, last - t, 0.0F);
      sum = sum + weight;
      if constexpr (kTimesScales) {
        const float* scales = tile.scales[t / kPageTokens] + kPageTokens + t % kPageTokens;
        (weight * Lanes::Load(scales)).Store(scores + t);
      } else {
        weight.Store(scores + t);
      }
    }
    tile.sum[q] = Lanes::FoldSum(sum);
  }

  /// Adds the tokens [begin, end) of kQueries queries from first_query on to the kBlocks blocks of
  /// 16 dimensions from `dim` on.
  template <int kQueries, int kBlocks, typename Element>
  static void AddValues(const AttentionTile& tile, int first_query,
                        const float (*weights)[kChunkTokens], int dim, int begin, int end) {
    Lanes sums[kQueries][kBlocks];
    for (int q = 0; q < kQueries; ++q) {
      for (int b = 0; b < kBlocks; ++b) {
        sums[q][b] = Lanes::Load(tile.out[first_query + q] + dim + b * kLanes);
      }
    }
    for (int token = begin; token < end;) {
      const int page_end = Min(end, (token / kPageTokens + 1) * kPageTokens);
      const int64_t at = static_cast<int64_t>(token % kPageTokens) * tile.head_dim + dim;
      const Element* row = static_cast<const Element*>(tile.values[token / kPageTokens]) + at;
      const auto* next = static_cast<const Element*>(
          page_end < end ? tile.values[page_end / kPageTokens] : tile.then);
      const Element* ahead = next == nullptr ? row : next + at;
      for (; token < page_end; ++token, row += tile.head_dim, ahead += tile.head_dim) {
        Prefetch<kBlocks>(ahead);
        Lanes value[kBlocks];
        for (int b = 0; b < kBlocks; ++b) value[b] = Lanes::Load(row + b * kLanes);
        for (int q = 0; q < kQueries; ++q) {
          const Lanes weight = Lanes::Set(weights[first_query + q][token]);
          for (int b = 0; b < kBlocks; ++b) {
            sums[q][b] = Lanes::Fma(weight, value[b], sums[q][b]);
          }
        }
      }
    }
    for (int q = 0; q < kQueries; ++q) {
      for (int b = 0; b < kBlocks; ++b) {
        sums[q][b].Store(tile.out[first_query + q] + dim + b * kLanes);
      }
    }
  }

  static float AsFloat(float x) { return x; }
  static float AsFloat(uint16_t half) { return _cvtsh_ss(half); }
  static float AsFloat(Float8 code) { return _cvtsh_ss(HalfOfFloat8(code)); }

  /// The dimensions after the last whole 16.
  template <typename Element>
  static void AddValuesOfRest(const AttentionTile& tile, int q, const float* weights, int dim,
                              int begin, int end) {
    for (; dim < tile.head_dim; ++dim) {
      float sum = tile.out[q][dim];
      for (int token = begin; token < end; ++token) {
        const auto* page = static_cast<const Element*>(tile.values[token / kPageTokens]);
        const int64_t slot = token % kPageTokens;
        sum = __builtin_fmaf(weights[token], AsFloat(page[slot * tile.head_dim + dim]), sum);
      }
      tile.out[q][dim] = sum;
    }
  }

  /// Tokens [begin, end) of queries [first_query, first_query + kQueries), which all see them.
  template <int kQueries, typename Element>
  static void Values(const AttentionTile& tile, int first_query,
                     const float (*weights)[kChunkTokens], int begin, int end) {
    if (begin >= end) return;
    constexpr int kBlocks = TogetherWith(kQueries);
    int dim = 0;
    for (; dim + kBlocks * kLanes <= tile.head_dim; dim += kBlocks * kLanes) {
      AddValues<kQueries, kBlocks, Element>(tile, first_query, weights, dim, begin, end);
    }
    for (; dim + kLanes <= tile.head_dim; dim += kLanes) {
      AddValues<kQueries, 1, Element>(tile, first_query, weights, dim, begin, end);
    }
    for (int q = first_query; q < first_query + kQueries; ++q) {
      AddValuesOfRest<Element>(tile, q, weights[q], dim, begin, end);
    }
  }

  template <int kQueries, typename Element>
  static void ChunkOf(AttentionTile& tile) {
    float scores[kMostTileQueries][kChunkTokens];
    int first = kChunkTokens, last = 0;                // seen by any query
    int common_first = 0, common_last = kChunkTokens;  // seen by all
    for (int q = 0; q < kQueries; ++q) {
      common_first = Max(common_first, tile.first[q]);
      common_last = Min(common_last, tile.last[q]);
      if (tile.first[q] >= tile.last[q]) continue;
      first = Min(first, tile.first[q]);
      last = Max(last, tile.last[q]);
    }
    if (first >= last) return;
    Scores<kQueries, Element>(tile, scores, first / kLanes * kLanes,
                              (last + kLanes - 1) / kLanes * kLanes);
    for (int q = 0; q < kQueries; ++q) {
      if (tile.first[q] >= tile.last[q]) continue;
      if (tile.slope[q] != 0.0F) {
        AddDistances(tile, q, tile.first[q] / kLanes * kLanes, tile.last[q], scores[q]);
      }
      Weights<kScaled<Element>>(tile, q, scores[q]);
      for (int d = 0; d < tile.head_dim; ++d) tile.out[q][d] = 0.0F;
    }
    // Tokens go in ascending order for each query; those that all see are read once for all.
    if (kQueries == 1 || common_first >= common_last) {
      for (int q = 0; q < kQueries; ++q) {
        Values<1, Element>(tile, q, scores, tile.first[q], tile.last[q]);
      }
      return;
    }
    for (int q = 0; q < kQueries; ++q) {
      Values<1, Element>(tile, q, scores, tile.first[q], common_first);
    }
    Values<kQueries, Element>(tile, 0, scores, common_first, common_last);
    for (int q = 0; q < kQueries; ++q) {
      Values<1, Element>(tile, q, scores, common_last, tile.last[q]);
    }
  }

  template <typename Element>
  static void Chunk(AttentionTile& tile) {
    switch (tile.queries) {
      case 1:
        return ChunkOf<1, Element>(tile);
      case 2:
        return ChunkOf<2, Element>(tile);
      case 3:
        return ChunkOf<3, Element>(tile);
      case 4:
        return ChunkOf<4, Element>(tile);
      case 5:
        return ChunkOf<5, Element>(tile);
      default:
        return ChunkOf<6, Element>(tile);
    }
  }

  static void Accumulate(const float* chunk, float factor, int64_t n, float* sum) {
    const Lanes f = Lanes::Set(factor);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      Lanes::Fma(f, Lanes::Load(chunk + i), Lanes::Load(sum + i)).Store(sum + i);
    }
    for (; i < n; i += kLanes) {
      const int count = n - i < kLanes ? static_cast<int>(n - i) : kLanes;
      Lanes::Fma(f, Lanes::LoadPart(chunk + i, count), Lanes::LoadPart(sum + i, count))
          .StorePart(sum + i, count);
    }
  }

  static void Divide(float* x, float divisor, int64_t n) {
    const Lanes d = Lanes::Set(divisor);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) (Lanes::Load(x + i) / d).Store(x + i);
    for (; i < n; i += kLanes) {
      const int count = n - i < kLanes ? static_cast<int>(n - i) : kLanes;
      (Lanes::LoadPart(x + i, count) / d).StorePart(x + i, count);
    }
  }

  static constexpr AttentionKernels kTable = {Chunk<uint16_t>, Chunk<float>, Accumulate, Divide};
};

}  // namespace tandem::core
