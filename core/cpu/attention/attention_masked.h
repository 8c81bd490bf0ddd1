#pragma once

#include "core/cpu/attention/attention_kernels.h"

/// Private to attention_masked*.cpp, which are compiled apart from the dense kernels.
namespace tandem::core {

/// One chunk of sparse attention: as AttentionOf, with any set of tokens for each query.
template <typename Lanes, int kAccumulators>
struct MaskedAttentionOf : AttentionOf<Lanes, kAccumulators> {
  using Dense = AttentionOf<Lanes, kAccumulators>;

  static uint64_t SeenByAny(const AttentionTile& tile, int page) {
    uint64_t seen = 0;
    for (int q = 0; q < tile.queries; ++q) seen |= tile.seen[q][page];
    return seen;
  }
  static bool SeesAny(const AttentionTile& tile, int q) {
    uint64_t seen = 0;
    for (int page = 0; page < kPagesPerChunk; ++page) seen |= tile.seen[q][page];
    return seen != 0;
  }
  /// The lowest bit that is 1, 64 without one; the number behind the highest.
  static int LowestBit(uint64_t bits) { return bits == 0 ? 64 : __builtin_ctzll(bits); }
  static int BitsEnd(uint64_t bits) { return bits == 0 ? 0 : 64 - __builtin_clzll(bits); }

  /// Dense::AddDistances of the tokens that query q sees.
  static void AddDistances(const AttentionTile& tile, int q, float* scores) {
    for (int page = 0; page < kPagesPerChunk; ++page) {
      const uint64_t bits = tile.seen[q][page];
      if (bits == 0) continue;
      const int start = page * kPageTokens;
      Dense::AddDistances(tile, q, start + LowestBit(bits) / kLanes * kLanes, start + BitsEnd(bits),
                          scores);
    }
  }

  /// Dense::Weights of the tokens that query q sees; what the others' scores become is not said.
  template <bool kTimesScales>
  static void Weights(AttentionTile& tile, int q, float* scores) {
    const float infinity = __builtin_inff();
    const auto bits_at = [&](int t) {
      return static_cast<uint32_t>(tile.seen[q][t / kPageTokens] >> (t % kPageTokens)) & 0xffffU;
    };
    Lanes maximum = Lanes::Set(-infinity);
    for (int t = 0; t < kChunkTokens; t += kLanes) {
      const uint32_t bits = bits_at(t);
      if (bits == 0) continue;
      maximum = Lanes::Max(Lanes::KeepBits(Lanes::Load(scores + t), bits, -infinity), maximum);
    }
    tile.maximum[q] = Lanes::FoldMax(maximum);
    const Lanes m = Lanes::Set(tile.maximum[q]);
    Lanes sum = Lanes::Set(0.0F);
    for (int t = 0; t < kChunkTokens; t += kLanes) {
      const uint32_t bits = bits_at(t);
      if (bits == 0) continue;
      const Lanes weight = Lanes::KeepBits(LanesExp(Lanes::Load(scores + t) - m), bits, 0.0F);
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

  /// The values of one page, run by run of tokens that the same queries see.
  template <int kQueries, typename Element>
  static void PageValues(const AttentionTile& tile, int page,
                         const float (*weights)[kChunkTokens]) {
    int begin = 0;
    while (begin < kPageTokens) {
      // A query's run ends where its bits change.
      int end = kPageTokens;
      bool all = true;
      for (int q = 0; q < kQueries; ++q) {
        const uint64_t bits = tile.seen[q][page] >> begin;
        const bool sees = (bits & 1U) != 0;
        all = all && sees;
        end = Dense::Min(end, begin + LowestBit(sees ? ~bits : bits));
      }
      const int first = page * kPageTokens + begin;
      const int last = page * kPageTokens + end;
      if (all) {
        Dense::template Values<kQueries, Element>(tile, 0, weights, first, last);
      } else {
        for (int q = 0; q < kQueries; ++q) {
          if ((tile.seen[q][page] >> begin & 1U) == 0) continue;
          Dense::template Values<1, Element>(tile, q, weights, first, last);
        }
      }
      begin = end;
    }
  }

  template <int kQueries, typename Element>
  static void ChunkOf(AttentionTile& tile) {
    float scores[kMostTileQueries][kChunkTokens];
    for (int page = 0; page < kPagesPerChunk; ++page) {
      const uint64_t seen = SeenByAny(tile, page);
      if (seen == 0) continue;
      const int first = LowestBit(seen) / kLanes * kLanes;
      const int last = (BitsEnd(seen) + kLanes - 1) / kLanes * kLanes;
      Dense::template Scores<kQueries, Element>(tile, scores, page * kPageTokens + first,
                                                page * kPageTokens + last);
    }
    for (int q = 0; q < kQueries; ++q) {
      if (!SeesAny(tile, q)) continue;
      if (tile.slope[q] != 0.0F) AddDistances(tile, q, scores[q]);
      Weights<Dense::template kScaled<Element>>(tile, q, scores[q]);
      for (int d = 0; d < tile.head_dim; ++d) tile.out[q][d] = 0.0F;
    }
    for (int page = 0; page < kPagesPerChunk; ++page) {
      if (SeenByAny(tile, page) != 0) PageValues<kQueries, Element>(tile, page, scores);
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

  static constexpr MaskedKernels kMaskedTable = {Chunk<uint16_t>, Chunk<float>, Chunk<Float8>};
};

}  // namespace tandem::core
