// The products of numerics.md, rules 1 to 3, written once. Included by linear_scalar.cpp,
// linear_avx2.cpp and linear_avx512.cpp, each of which defines, in its anonymous namespace, a type
// V of vector operations on 16 lanes:
//
//     V::Int, V::Float                    16 lanes of 32 bits
//     Zero(), FloatZero(), Load(bytes)    integer vectors; Load reads 64 bytes
//     ShiftRight<n>, ShiftLeft<n>, And(v, mask), Or(v, w)   on 32-bit lanes
//     V::Codes, LoadActivations(int8_t*)  four activation codes for all lanes
//     Products<kBits>                     a sum of four unsigned times four signed bytes, of codes
//                                         of that many bits: Begin(v), Add(w, a), Total(). Codes of
//                                         8 bits are reduced by 128 if kReducesBy128
//     kLoadsInProducts                    whether Products has AddLoaded(w, codes) as well: Add(w,
//                                         LoadActivations(codes)) in one instruction
//     StartDot<shift>(int32_t* n)         *n << shift, in all lanes
//     ToFloat(v), Broadcast(float)
//     LoadF32/F16/BF16(bytes)             16 floats
//     LoadInt8(bytes), LowNibbles(bytes), HighNibbles(bytes)
//                                         16 integers: int8, or the low or high bits of bytes
//     Multiply(a, b), Fma(a, b, c)
//     Store(float*, v)
//     LargerMagnitude(m, v)               max(m, |v|) as bits, whose order is theirs, NaN last
//     ReachesPartialSumLimit(m)                 whether any lane fails by rule 3
//     AddPartialSum(v, int64_t*)                rule 3, where none fails
//     kAddsPartialSumsBetweenProducts          whether its registers have room for partial sums
//     that wait kPartialSumsInHalves<dtype, tokens>      whether PartialSumHalves suits a kernel.
//     If any, then AddHalves(v, int32_t* upper, int32_t* lower, Int& seen), LeavesBinade(seen)
//                                         as PartialSumHalves has it
//     StoreInt(int32_t*, v), StoreHalves(const int32_t* upper, const int32_t* lower, int32_t
//     partial sums, int64_t*)                           what so many partial sums added up to
//     AddKernels<dtype>(TileKernels&)     which sizes suit its registers
//
// Everything has internal linkage, so that no code of a wider instruction set can be picked by the
// linker for use elsewhere.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/cpu/linear/linear_kernel.h"
#include "core/cpu/linear/linear_targets.h"

namespace tandem::core {
namespace {

constexpr int Log2(int value) { return value <= 1 ? 0 : 1 + Log2(value / 2); }

/// Codes of columns 16 half + 4 group + (0..3), in the layout of tile_format.h.
template <class V, int kBits>
TANDEM_INLINE typename V::Int LoadCodes(const std::byte* block, int half, int group) {
  if constexpr (kBits == 8) {
    return V::Load(block + 64 * (4 * half + group));
  } else {
    constexpr bool kNibbles = kBits >= 4;
    constexpr bool kPairs = kBits == 2 || kBits == 3 || kBits == 6;
    constexpr bool kSingles = kBits == 3 || kBits == 5;
    constexpr int kPairsAt = kNibbles ? 256 : 0;
    constexpr int kSinglesAt = kPairsAt + (kPairs ? 128 : 0);
    typename V::Int codes = V::Zero();
    if constexpr (kNibbles) {
      const typename V::Int both = V::Load(block + 64 * group);
      codes = V::And(half == 0 ? both : V::ShiftRight(both, 4), 0x0f0f0f0f);
    }
    if constexpr (kPairs) {
      constexpr int kTarget = kNibbles ? 4 : 0;
      const typename V::Int pairs = V::Load(block + kPairsAt + 64 * half);
      const typename V::Int placed =
          V::And(V::Shift(pairs, kTarget - 2 * group), 0x03030303 << kTarget);
      codes = kNibbles ? V::Or(codes, placed) : placed;
    }
    if constexpr (kSingles) {
      constexpr int kTarget = kBits - 1;
      const typename V::Int singles = V::Load(block + kSinglesAt);
      codes = V::Or(codes,
                    V::And(V::Shift(singles, kTarget - 4 * half - group), 0x01010101 << kTarget));
    }
    return codes;
  }
}

/// Scale and offset of 16 rows for a half of a block, or all of it.
template <class V>
struct ScaleOffset {
  typename V::Float scale;
  typename V::Float offset;
};

/// scales: what the block has after its codes. header: of the super-block (K-quants only).
template <class V, DType kDtype>
TANDEM_INLINE ScaleOffset<V> LoadScale(const std::byte* scales, const std::byte* header, int half) {
  constexpr TileFormat kFormat = TileFormatOf(kDtype);
  constexpr int64_t kNext = TileFormat::kHalfVectorBytes;
  if constexpr (!kFormat.super_blocks) {
    return {V::LoadF16(scales), kFormat.has_offset ? V::LoadF16(scales + kNext) : V::FloatZero()};
  } else {
    const std::byte* factors = scales + half * kFormat.factor_bytes();
    const typename V::Int scale_factor =
        kFormat.nibble_factors ? V::LowNibbles(factors) : V::LoadInt8(factors);
    ScaleOffset<V> of_rows;
    of_rows.scale = V::Multiply(V::LoadF16(header), V::ToFloat(scale_factor));
    if constexpr (kFormat.has_offset) {
      const typename V::Int offset_factor =
          kFormat.nibble_factors ? V::HighNibbles(factors) : V::LoadInt8(factors + kTileRows);
      of_rows.offset = V::Multiply(V::LoadF16(header + kNext), V::ToFloat(offset_factor));
    } else {
      of_rows.offset = V::FloatZero();
    }
    return of_rows;
  }
}

/// Several tokens take longer for a block than its way from memory, but the processor's own
/// prefetchers wait until it is read. Asking for this far ahead, into the second-level cache, made
/// 4 to 16 sequences 10 to 40 % faster. With one token reading sets the pace, and it only disturbs.
constexpr int64_t kPrefetchBytes = 8192;

template <DType kDtype, int kTiles>
TANDEM_INLINE void PrefetchBlocks(const std::byte* block, int64_t tile_stride) {
  constexpr int64_t kLineBytes = 64;
  constexpr int kIntoSecondLevel = 2;
  for (int tile = 0; tile < kTiles; ++tile) {
    const std::byte* ahead = block + tile * tile_stride + kPrefetchBytes;
    for (int64_t at = 0; at < TileFormatOf(kDtype).block_bytes(); at += kLineBytes) {
      __builtin_prefetch(ahead + at, 0, kIntoSecondLevel);
    }
  }
}

/// sums += the products of one block (rule 2). `block` is the first tile's, and `header` the one of
/// its super-block. between(step): other work, for units of the processor that products leave idle.
template <class V, DType kDtype, int kTiles, int kTokens, typename Between>
TANDEM_INLINE void MultiplyBlock(const std::byte* block, const std::byte* header,
                                 const TileWork& work, int64_t b, Sums<V, kTiles, kTokens>& sums,
                                 const Between& between) {
  constexpr TileFormat kFormat = TileFormatOf(kDtype);
  constexpr int kSteps = kFormat.scales_per_block;
  const int64_t stride = work.group_tokens;
  const int8_t* codes = work.codes + b * stride * kBlockColumns;
  const float* scales = work.scales + b * stride;
  if constexpr (kTokens > 1) PrefetchBlocks<kDtype, kTiles>(block, work.tile_stride);

#pragma GCC unroll 2
  for (int step = 0; step < kSteps; ++step) {
    // Which sum of activation codes: of this half, or of the block.
    const int64_t which = (3 * b + (kSteps == 2 ? step : 2)) * stride;
    // The zero point leaves with what a sum of products begins with.
    constexpr bool kCorrect =
        kFormat.zero_point != 0 && !(kFormat.zero_point == 128 && V::kReducesBy128);
    typename V::template Products<kFormat.code_bits> products[kTiles][kTokens];
#pragma GCC unroll 4
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma GCC unroll 16
      for (int t = 0; t < kTokens; ++t) {
        products[tile][t].Begin(kCorrect ? V::template StartDot<Log2(kFormat.zero_point)>(
                                               work.negative_sums + which + t)
                                         : V::Zero());
      }
    }
#pragma GCC unroll 4
    for (int group = 0; group < 4; ++group) {
#pragma GCC unroll 2
      for (int half = kSteps == 2 ? step : 0; half < (kSteps == 2 ? step + 1 : 2); ++half) {
        typename V::Int w[kTiles];
#pragma GCC unroll 4
        for (int tile = 0; tile < kTiles; ++tile) {
          w[tile] = LoadCodes<V, kFormat.code_bits>(block + tile * work.tile_stride, half, group);
        }
#pragma GCC unroll 16
        for (int t = 0; t < kTokens; ++t) {
          const int8_t* at = codes + t * kBlockColumns + 16 * half + 4 * group;
          if constexpr (V::kLoadsInProducts && kTiles == 1 && kTokens > 1) {
            products[0][t].AddLoaded(w[0], at);
          } else {
            const typename V::Codes a = V::LoadActivations(at);
#pragma GCC unroll 4
            for (int tile = 0; tile < kTiles; ++tile) products[tile][t].Add(w[tile], a);
          }
        }
        between(kSteps == 2 ? 4 * step + group : 2 * group + half);
      }
    }
#pragma GCC unroll 4
    for (int tile = 0; tile < kTiles; ++tile) {
      const int64_t at = tile * work.tile_stride;
      const ScaleOffset<V> rows =
          LoadScale<V, kDtype>(block + at + kFormat.code_bytes(), header + at, step);
#pragma GCC unroll 16
      for (int t = 0; t < kTokens; ++t) {
        const typename V::Float activation_scale = V::Broadcast(scales[t]);
        typename V::Float& sum = sums.of[tile][t];
        sum = V::Fma(V::Multiply(rows.scale, activation_scale),
                     V::ToFloat(products[tile][t].Total()), sum);
        if constexpr (kFormat.has_offset) {
          sum = V::Fma(V::Multiply(rows.offset, activation_scale),
                       V::Broadcast(work.float_sums[which + t]), sum);
        }
      }
    }
  }
}

/// sums += the products of `columns` columns of one block of float weights (rule 1).
template <class V, DType kDtype, int kTiles, int kTokens>
TANDEM_INLINE void MultiplyColumns(const std::byte* block, const TileWork& work, int64_t first,
                                   int64_t columns, Sums<V, kTiles, kTokens>& sums) {
  constexpr int64_t kColumnBytes = int64_t{kTileRows} * TileFormatOf(kDtype).element_bytes;
  const float* x = work.x + first;
  for (int64_t column = 0; column < columns; ++column) {
    typename V::Float w[kTiles];
#pragma GCC unroll 4
    for (int tile = 0; tile < kTiles; ++tile) {
      const std::byte* from = block + tile * work.tile_stride + column * kColumnBytes;
      if constexpr (kDtype == DType::kF32) {
        w[tile] = V::LoadF32(from);
      } else if constexpr (kDtype == DType::kF16) {
        w[tile] = V::LoadF16(from);
      } else {
        w[tile] = V::LoadBF16(from);
      }
    }
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t) {
      const typename V::Float value = V::Broadcast(x[t * work.x_stride + column]);
#pragma GCC unroll 4
      for (int tile = 0; tile < kTiles; ++tile) {
        sums.of[tile][t] = V::Fma(w[tile], value, sums.of[tile][t]);
      }
    }
  }
}

/// The blocks of a tile, one after the other.
template <DType kDtype>
struct TileWalk {
  static constexpr TileFormat kFormat = TileFormatOf(kDtype);
  const std::byte* block;
  const std::byte* header;
  int64_t blocks_to_header;

  TANDEM_INLINE explicit TileWalk(const TileWork& work)
      : block(work.tile + kFormat.header_bytes()),
        header(work.tile),
        blocks_to_header(kSuperBlocks - work.first_block) {}

  TANDEM_INLINE void Next() {
    block += kFormat.block_bytes();
    if constexpr (kFormat.super_blocks) {
      if (--blocks_to_header == 0) {
        header = block;
        block += kFormat.header_bytes();
        blocks_to_header = kSuperBlocks;
      }
    }
  }
};

/// All columns of some tiles; each partial sum, or all together, goes to a Target (WholeSums,
/// PartialSumTotals, or PartialSumHalves). False if that cannot say the sums. A function for each
/// target: what one keeps in registers is none of the others' business.
template <class V, DType kDtype, int kTiles, int kTokens, class Target>
__attribute__((noinline)) bool MultiplyTilesInto(const TileWork& work) {
  constexpr bool kQuantized = TileFormatOf(kDtype).quantized();
  TileWalk<kDtype> walk(work);
  typename Target::Memory memory;
  Target target(work, memory);
  int64_t column = 0;
  do {
    Sums<V, kTiles, kTokens> sums;
    const int64_t end =
        work.columns - column > work.partial_columns ? column + work.partial_columns : work.columns;
    if constexpr (kQuantized && Target::kWaits) {
      if (target.any()) {
        MultiplyBlock<V, kDtype>(walk.block, walk.header, work, column / kBlockColumns, sums,
                                 [&](int step) TANDEM_INLINE_LAMBDA { target.Add(step); });
        walk.Next();
        column += kBlockColumns;
      }
    }
    for (; column < end; column += kBlockColumns) {
      if constexpr (kQuantized) {
        MultiplyBlock<V, kDtype>(walk.block, walk.header, work, column / kBlockColumns, sums,
                                 [](int) {});
      } else {
        const int64_t columns = end - column < kBlockColumns ? end - column : kBlockColumns;
        MultiplyColumns<V, kDtype>(walk.block, work, column, columns, sums);
      }
      walk.Next();
    }
    target.Take(sums);
    if constexpr (!kQuantized) target.Finish();
  } while (column < work.columns);
  return target.Finish();
}

template <class V, DType kDtype, int kTiles, int kTokens>
void MultiplyTiles(const TileWork& work) {
  if (work.out != nullptr) {
    MultiplyTilesInto<V, kDtype, kTiles, kTokens, WholeSums<V, kTiles, kTokens>>(work);
    return;
  }
  if constexpr (V::template kPartialSumsInHalves<kDtype, kTokens>) {
    using Halves = PartialSumHalves<V, kTiles, kTokens>;
    if (Halves::Fits(work) && MultiplyTilesInto<V, kDtype, kTiles, kTokens, Halves>(work)) return;
  }
  MultiplyTilesInto<V, kDtype, kTiles, kTokens, PartialSumTotals<V, kTiles, kTokens>>(work);
}

template <class V, DType kDtype, int kTiles, int kTokens>
void AddKernel(TileKernels& kernels) {
  kernels.kernels[kernels.count++] = {kTiles, kTokens, MultiplyTiles<V, kDtype, kTiles, kTokens>};
}

template <class V, DType kDtype>
TileKernels KernelsOf() {
  TileKernels kernels;
  V::template AddKernels<kDtype>(kernels);
  return kernels;
}

template <class V>
TileKernels KernelsOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return KernelsOf<V, DType::kF32>();
    case DType::kF16:
      return KernelsOf<V, DType::kF16>();
    case DType::kBF16:
      return KernelsOf<V, DType::kBF16>();
    case DType::kQ4_0:
      return KernelsOf<V, DType::kQ4_0>();
    case DType::kQ4_1:
      return KernelsOf<V, DType::kQ4_1>();
    case DType::kQ5_0:
      return KernelsOf<V, DType::kQ5_0>();
    case DType::kQ5_1:
      return KernelsOf<V, DType::kQ5_1>();
    case DType::kQ8_0:
      return KernelsOf<V, DType::kQ8_0>();
    case DType::kQ2_K:
      return KernelsOf<V, DType::kQ2_K>();
    case DType::kQ3_K:
      return KernelsOf<V, DType::kQ3_K>();
    case DType::kQ4_K:
      return KernelsOf<V, DType::kQ4_K>();
    case DType::kQ5_K:
      return KernelsOf<V, DType::kQ5_K>();
    case DType::kQ6_K:
      return KernelsOf<V, DType::kQ6_K>();
  }
  return {};
}

}  // namespace
}  // namespace tandem::core
