// The products of numerics.md, rules 1 to 3, written once. Included by linear_scalar.cpp,
// linear_avx2.cpp and linear_avx512.cpp, each of which defines, in its anonymous namespace, a type
// V of vector operations on 16 lanes:
//
//     V::Int, V::Float                    16 lanes of 32 bits
//     Zero(), FloatZero(), Load(bytes)    integer vectors; Load reads 64 bytes
//     ShiftRight<n>, ShiftLeft<n>, And(v, mask), Or(v, w)   on 32-bit lanes
//     V::Codes, LoadActivations(int8_t*)  four activation codes for all lanes
//     Dot<kMaxCode>(acc, w, a)            acc + four unsigned times four signed bytes
//     DotExcess128(acc, w, a)             the same, exactly, with codes of w reduced by 128 if
//                                         kReducesBy128, else unreduced
//     SubtractScaled<shift>(v, n)         v - (n << shift)
//     ToFloat(v), Broadcast(float)
//     LoadF32/F16/BF16(bytes)             16 floats
//     Multiply(a, b), Fma(a, b, c)
//     Store(float*, v)
//     AddLeaf(v, int64_t*)                rule 3; returns the bits of rows that failed
//     AddKernels<dtype>(TileKernels&)     which sizes suit its registers
//
// Everything has internal linkage, so that no code of a wider instruction set can be picked by the
// linker for use elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/linear_kernel.h"

namespace tandem::core {
namespace {

#define TANDEM_INLINE inline __attribute__((always_inline))

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

template <class V, bool kHalf>
TANDEM_INLINE typename V::Float LoadScale(const std::byte* at) {
  if constexpr (kHalf) {
    return V::LoadF16(at);
  } else {
    return V::LoadF32(at);
  }
}

/// Sums of some tiles' rows with some tokens.
template <class V, int kTiles, int kTokens>
struct Sums {
  typename V::Float of[kTiles][kTokens];
};

/// sums += the products of one block (rule 2). `block` is the first tile's.
template <class V, DType kDtype, int kTiles, int kTokens>
TANDEM_INLINE void MultiplyBlock(const std::byte* block, const TileWork& work, int64_t b,
                                 Sums<V, kTiles, kTokens>& sums) {
  constexpr TileFormat kFormat = TileFormatOf(kDtype);
  constexpr int kSteps = kFormat.scales_per_block;
  constexpr int64_t kScaleBytes = kFormat.scale_vector_bytes();
  const int64_t stride = work.group_tokens;
  const int8_t* codes = work.codes + b * stride * kBlockColumns;
  const float* scales = work.scales + b * stride;
  const std::byte* at = block + kFormat.code_bytes();

#pragma GCC unroll 2
  for (int step = 0; step < kSteps; ++step) {
    typename V::Int dot[kTiles][kTokens];
#pragma GCC unroll 2
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) dot[tile][t] = V::Zero();
    }
#pragma GCC unroll 4
    for (int group = 0; group < 4; ++group) {
#pragma GCC unroll 2
      for (int half = kSteps == 2 ? step : 0; half < (kSteps == 2 ? step + 1 : 2); ++half) {
        typename V::Int w[kTiles];
#pragma GCC unroll 2
        for (int tile = 0; tile < kTiles; ++tile) {
          w[tile] = LoadCodes<V, kFormat.code_bits>(block + tile * work.tile_stride, half, group);
        }
#pragma GCC unroll 8
        for (int t = 0; t < kTokens; ++t) {
          const typename V::Codes a =
              V::LoadActivations(codes + t * kBlockColumns + 16 * half + 4 * group);
#pragma GCC unroll 2
          for (int tile = 0; tile < kTiles; ++tile) {
            if constexpr (kFormat.code_bits == 8) {
              dot[tile][t] = V::DotExcess128(dot[tile][t], w[tile], a);
            } else {
              constexpr int kMaxCode = (1 << kFormat.code_bits) - 1;
              dot[tile][t] = V::template Dot<kMaxCode>(dot[tile][t], w[tile], a);
            }
          }
        }
      }
    }
    // Which sum of activation codes: of this half, or of the block.
    const int64_t which = (3 * b + (kSteps == 2 ? step : 2)) * stride;
    typename V::Float scale[kTiles];
    typename V::Float offset[kTiles];
#pragma GCC unroll 2
    for (int tile = 0; tile < kTiles; ++tile) {
      const std::byte* from = at + tile * work.tile_stride;
      scale[tile] = LoadScale<V, kFormat.half_scales>(from);
      offset[tile] = kFormat.has_offset ? LoadScale<V, kFormat.half_scales>(from + kScaleBytes)
                                        : V::FloatZero();
    }
    at += kScaleBytes * (kFormat.has_offset ? 2 : 1);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      const typename V::Float activation_scale = V::Broadcast(scales[t]);
#pragma GCC unroll 2
      for (int tile = 0; tile < kTiles; ++tile) {
        typename V::Float& sum = sums.of[tile][t];
        typename V::Int product = dot[tile][t];
        if constexpr (kFormat.zero_point != 0 && !(kFormat.zero_point == 128 && V::kReducesBy128)) {
          product =
              V::template SubtractScaled<Log2(kFormat.zero_point)>(product, work.sums[which + t]);
        }
        sum = V::Fma(V::Multiply(scale[tile], activation_scale), V::ToFloat(product), sum);
        if constexpr (kFormat.has_offset) {
          sum = V::Fma(V::Multiply(offset[tile], activation_scale),
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
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      const typename V::Float value = V::Broadcast(x[t * work.x_stride + column]);
#pragma GCC unroll 4
      for (int tile = 0; tile < kTiles; ++tile) {
        sums.of[tile][t] = V::Fma(w[tile], value, sums.of[tile][t]);
      }
    }
  }
}

template <class V, DType kDtype, int kTiles, int kTokens>
void MultiplyTiles(const TileWork& work) {
  constexpr TileFormat kFormat = TileFormatOf(kDtype);
  const std::byte* block = work.tile;
  int64_t column = 0;
  do {
    Sums<V, kTiles, kTokens> sums;
#pragma GCC unroll 4
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) sums.of[tile][t] = V::FloatZero();
    }
    const int64_t end =
        work.columns - column > work.leaf_columns ? column + work.leaf_columns : work.columns;
    for (; column < end; column += kBlockColumns) {
      if constexpr (kFormat.quantized()) {
        MultiplyBlock<V, kDtype>(block, work, column / kBlockColumns, sums);
      } else {
        const int64_t columns = end - column < kBlockColumns ? end - column : kBlockColumns;
        MultiplyColumns<V, kDtype>(block, work, column, columns, sums);
      }
      block += kFormat.block_bytes();
    }
#pragma GCC unroll 4
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        const int at = tile * kTokens + t;
        if (work.out != nullptr) {
          V::Store(work.out + at * kTileRows, sums.of[tile][t]);
        } else {
          work.failed_rows[at] |= V::AddLeaf(sums.of[tile][t], work.leaf_sums + at * kTileRows);
        }
      }
    }
  } while (column < work.columns);
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
