// The products of numerics.md, rules 1 to 3, written once. Included by linear_scalar.cpp,
// linear_avx2.cpp and linear_avx512.cpp, each of which defines, in its anonymous namespace, a type
// V of vector operations on 16 lanes:
//
//     V::Int, V::Float                    16 lanes of 32 bits
//     Zero(), FloatZero(), Load(bytes)    integer vectors; Load reads 64 bytes
//     ShiftRight<n>, ShiftLeft<n>, And(v, mask), Or(v, w)   on 32-bit lanes
//     Dot<kMaxCode>(acc, w, a)            acc + four unsigned times four signed bytes
//     DotExcess128(acc, w, a)             the same, exactly, with codes of w reduced by 128 if
//                                         kReducesBy128, else unreduced
//     SubtractScaled<shift>(v, n)         v - (n << shift)
//     ToFloat(v), Broadcast(float)
//     LoadF32/F16/BF16(bytes)             16 floats
//     Multiply(a, b), Fma(a, b, c)
//     Store(float*, v)
//     AddLeaf(v, int64_t*)                rule 3; returns the bits of rows that failed
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

/// acc[t] += the products of one block (rule 2).
template <class V, DType kDtype, int kTokens>
TANDEM_INLINE void MultiplyBlock(const std::byte* block, const TileWork& work, int64_t b,
                                 typename V::Float (&acc)[kTokens]) {
  constexpr TileFormat kFormat = TileFormatOf(kDtype);
  constexpr int kSteps = kFormat.scales_per_block;
  constexpr int64_t kScaleBytes = kFormat.scale_vector_bytes();
  const int64_t stride = work.group_tokens;
  const int8_t* codes = work.codes + b * stride * kBlockColumns;
  const float* scales = work.scales + b * stride;
  const std::byte* at = block + kFormat.code_bytes();

#pragma GCC unroll 2
  for (int step = 0; step < kSteps; ++step) {
    typename V::Int dot[kTokens];
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) dot[t] = V::Zero();
      // Half by half in either case: the integer sum does not care.
#pragma GCC unroll 4
    for (int group = 0; group < 4; ++group) {
#pragma GCC unroll 2
      for (int half = kSteps == 2 ? step : 0; half < (kSteps == 2 ? step + 1 : 2); ++half) {
        const typename V::Int w = LoadCodes<V, kFormat.code_bits>(block, half, group);
#pragma GCC unroll 8
        for (int t = 0; t < kTokens; ++t) {
          int32_t a;
          std::memcpy(&a, codes + t * kBlockColumns + 16 * half + 4 * group, sizeof(a));
          if constexpr (kFormat.code_bits == 8) {
            dot[t] = V::DotExcess128(dot[t], w, a);
          } else {
            dot[t] = V::template Dot<(1 << kFormat.code_bits) - 1>(dot[t], w, a);
          }
        }
      }
    }
    // Which sum of activation codes: of this half, or of the block.
    const int64_t which = (3 * b + (kSteps == 2 ? step : 2)) * stride;
    const typename V::Float scale = LoadScale<V, kFormat.half_scales>(at);
    at += kScaleBytes;
    typename V::Float offset = V::FloatZero();
    if constexpr (kFormat.has_offset) {
      offset = LoadScale<V, kFormat.half_scales>(at);
      at += kScaleBytes;
    }
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      const typename V::Float activation_scale = V::Broadcast(scales[t]);
      typename V::Int sum = dot[t];
      if constexpr (kFormat.zero_point != 0 && !(kFormat.zero_point == 128 && V::kReducesBy128)) {
        sum = V::template SubtractScaled<Log2(kFormat.zero_point)>(sum, work.sums[which + t]);
      }
      acc[t] = V::Fma(V::Multiply(scale, activation_scale), V::ToFloat(sum), acc[t]);
      if constexpr (kFormat.has_offset) {
        acc[t] = V::Fma(V::Multiply(offset, activation_scale),
                        V::Broadcast(work.float_sums[which + t]), acc[t]);
      }
    }
  }
}

/// acc[t] += the products of `columns` columns of one block of float weights (rule 1).
template <class V, DType kDtype, int kTokens>
TANDEM_INLINE void MultiplyColumns(const std::byte* block, const float* x, int64_t x_stride,
                                   int64_t columns, typename V::Float (&acc)[kTokens]) {
  constexpr int64_t kColumnBytes = int64_t{kTileRows} * TileFormatOf(kDtype).element_bytes;
  for (int64_t column = 0; column < columns; ++column) {
    typename V::Float w;
    if constexpr (kDtype == DType::kF32) {
      w = V::LoadF32(block + column * kColumnBytes);
    } else if constexpr (kDtype == DType::kF16) {
      w = V::LoadF16(block + column * kColumnBytes);
    } else {
      w = V::LoadBF16(block + column * kColumnBytes);
    }
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      acc[t] = V::Fma(w, V::Broadcast(x[t * x_stride + column]), acc[t]);
    }
  }
}

template <class V, DType kDtype, int kTokens>
void MultiplyTile(const TileWork& work) {
  constexpr TileFormat kFormat = TileFormatOf(kDtype);
  const std::byte* block = work.tile;
  int64_t column = 0;
  do {
    typename V::Float acc[kTokens];
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) acc[t] = V::FloatZero();
    const int64_t end =
        work.columns - column > work.leaf_columns ? column + work.leaf_columns : work.columns;
    for (; column < end; column += kBlockColumns) {
      if constexpr (kFormat.quantized()) {
        MultiplyBlock<V, kDtype, kTokens>(block, work, column / kBlockColumns, acc);
      } else {
        const int64_t columns = end - column < kBlockColumns ? end - column : kBlockColumns;
        MultiplyColumns<V, kDtype, kTokens>(block, work.x + column, work.x_stride, columns, acc);
      }
      block += kFormat.block_bytes();
    }
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      if (work.out != nullptr) {
        V::Store(work.out + t * kTileRows, acc[t]);
      } else {
        work.failed_rows[t] |= V::AddLeaf(acc[t], work.leaf_sums + t * kTileRows);
      }
    }
  } while (column < work.columns);
}

template <class V, DType kDtype>
TileKernels KernelsOf() {
  TileKernels kernels;
  kernels.by_size[0] = MultiplyTile<V, kDtype, 1>;
  if constexpr (V::kMaxTokens >= 2) kernels.by_size[1] = MultiplyTile<V, kDtype, 2>;
  if constexpr (V::kMaxTokens >= 4) kernels.by_size[2] = MultiplyTile<V, kDtype, 4>;
  if constexpr (V::kMaxTokens >= 8) kernels.by_size[3] = MultiplyTile<V, kDtype, 8>;
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
