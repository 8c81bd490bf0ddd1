#include <cstring>

#include "core/cuda/kernels/device_code.h"
#include "core/cuda/kernels/embed_kernels.h"
#include "core/cuda/kernels/gpu_tile.h"
#include "core/cuda/kernels/launch.h"

namespace tandem::core {
namespace {

constexpr unsigned kThreads = 128;

// Element i of a block as it lies in a model file: what Dequantize (core/model/dtype.h) does, with
// the same bits. Rows are multiples of 2 bytes, so that nothing larger can be read at once.

__device__ int Byte(const std::byte* data, int i) { return static_cast<int>(data[i]); }
__device__ int SignedByte(const std::byte* data, int i) { return static_cast<int8_t>(data[i]); }
__device__ int Bit(const std::byte* data, int i) { return Byte(data, i / 8) >> (i % 8) & 1; }
/// Two a byte: low nibbles are elements 0 to 15, high nibbles 16 to 31.
__device__ int Nibble(const std::byte* data, int i) {
  return Byte(data, i % 16) >> (i / 16 * 4) & 15;
}
/// A run of 32 bytes holds two runs of 32 elements, four bits each.
__device__ int LongNibble(const std::byte* data, int i) {
  return Byte(data, i / 64 * 32 + i % 32) >> (i / 32 % 2 * 4) & 15;
}
/// A run of 32 bytes holds four runs of 32 elements, two bits each.
__device__ int Pair(const std::byte* data, int i) {
  return Byte(data, i / 128 * 32 + i % 32) >> (i / 32 % 4 * 2) & 3;
}

struct Factors {
  int scale;
  int minimum;
};
/// Six-bit scale and minimum of group 0 to 7 from the 12 bytes that Q4_K and Q5_K share.
__device__ Factors GroupFactors(const std::byte* scales, int group) {
  if (group < 4) return {Byte(scales, group) & 63, Byte(scales, group + 4) & 63};
  const int low = Byte(scales, group + 4);
  return {(low & 15) | (Byte(scales, group - 4) >> 6) << 4, low >> 4 | (Byte(scales, group) >> 6)
                                                                           << 4};
}

// Blocks of one.

__device__ float F32(const std::byte* block, int) {
  float value;
  std::memcpy(&value, block, sizeof(value));
  return value;
}
__device__ float F16(const std::byte* block, int) { return LoadHalf(block); }
__device__ float BF16(const std::byte* block, int) {
  const uint32_t bits = static_cast<uint32_t>(Byte(block, 0) | Byte(block, 1) << 8) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Blocks of 32.

// half scale; nibbles[16]
__device__ float Q4_0(const std::byte* block, int i) {
  return LoadHalf(block) * static_cast<float>(Nibble(block + 2, i) - 8);
}
// half scale; half minimum; nibbles[16]
__device__ float Q4_1(const std::byte* block, int i) {
  return LoadHalf(block) * static_cast<float>(Nibble(block + 4, i)) + LoadHalf(block + 2);
}
// half scale; fifth bits of all 32; nibbles[16]
__device__ float Q5_0(const std::byte* block, int i) {
  const int code = Nibble(block + 6, i) | Bit(block + 2, i) << 4;
  return LoadHalf(block) * static_cast<float>(code - 16);
}
// half scale; half minimum; fifth bits of all 32; nibbles[16]
__device__ float Q5_1(const std::byte* block, int i) {
  const int code = Nibble(block + 8, i) | Bit(block + 4, i) << 4;
  return LoadHalf(block) * static_cast<float>(code) + LoadHalf(block + 2);
}
// half scale; int8 codes[32]
__device__ float Q8_0(const std::byte* block, int i) {
  return LoadHalf(block) * static_cast<float>(SignedByte(block + 2, i));
}

// Superblocks of 256. "Group" is a run of elements with one scale.

// 16 groups of 16: (scale, minimum) nibbles[16]; 2-bit codes[64]; half d; half dmin.
__device__ float Q2_K(const std::byte* block, int i) {
  const int scale = Byte(block, i / 16);
  return LoadHalf(block + 80) * static_cast<float>(scale & 15) *
             static_cast<float>(Pair(block + 16, i)) -
         LoadHalf(block + 82) * static_cast<float>(scale >> 4);
}
// 16 groups of 16: third bits[32], inverted; 2-bit codes[64]; 6-bit scales in 12 bytes; half d.
__device__ float Q3_K(const std::byte* block, int i) {
  const std::byte* scales = block + 96;
  const int group = i / 16;
  const int low4 = Byte(scales, group % 8) >> (group / 8 * 4) & 15;
  const int high2 = Byte(scales + 8, group % 4) >> (group / 4 * 2) & 3;
  const int scale = (low4 | high2 << 4) - 32;
  const int third = Byte(block, i % 32) >> (i / 32) & 1;
  return LoadHalf(block + 108) * static_cast<float>(scale) *
         static_cast<float>(Pair(block + 32, i) - (third != 0 ? 0 : 4));
}
// half d; half dmin; 8 groups of 32: scales[12]; nibbles[128].
__device__ float Q4_K(const std::byte* block, int i) {
  const Factors factors = GroupFactors(block + 4, i / 32);
  return LoadHalf(block) * static_cast<float>(factors.scale) *
             static_cast<float>(LongNibble(block + 16, i)) -
         LoadHalf(block + 2) * static_cast<float>(factors.minimum);
}
// half d; half dmin; 8 groups of 32: scales[12]; fifth bits[32], one bit a group; nibbles[128].
__device__ float Q5_K(const std::byte* block, int i) {
  const Factors factors = GroupFactors(block + 4, i / 32);
  const int fifth = Byte(block + 16, i % 32) >> (i / 32) & 1;
  return LoadHalf(block) * static_cast<float>(factors.scale) *
             static_cast<float>(LongNibble(block + 48, i) | fifth << 4) -
         LoadHalf(block + 2) * static_cast<float>(factors.minimum);
}
// 16 groups of 16: low nibbles[128]; high two bits[64]; int8 scales[16]; half d.
__device__ float Q6_K(const std::byte* block, int i) {
  const int half = i / 128;
  const int low4 = Byte(block, half * 64 + i % 64) >> (i / 64 % 2 * 4) & 15;
  return LoadHalf(block + 208) * static_cast<float>(SignedByte(block + 192, i / 16)) *
         static_cast<float>((low4 | Pair(block + 128, i) << 4) - 32);
}

template <DType kDtype>
__device__ float Element(const std::byte* block, int i) {
  if constexpr (kDtype == DType::kF32) return F32(block, i);
  if constexpr (kDtype == DType::kF16) return F16(block, i);
  if constexpr (kDtype == DType::kBF16) return BF16(block, i);
  if constexpr (kDtype == DType::kQ4_0) return Q4_0(block, i);
  if constexpr (kDtype == DType::kQ4_1) return Q4_1(block, i);
  if constexpr (kDtype == DType::kQ5_0) return Q5_0(block, i);
  if constexpr (kDtype == DType::kQ5_1) return Q5_1(block, i);
  if constexpr (kDtype == DType::kQ8_0) return Q8_0(block, i);
  if constexpr (kDtype == DType::kQ2_K) return Q2_K(block, i);
  if constexpr (kDtype == DType::kQ3_K) return Q3_K(block, i);
  if constexpr (kDtype == DType::kQ4_K) return Q4_K(block, i);
  if constexpr (kDtype == DType::kQ5_K) return Q5_K(block, i);
  if constexpr (kDtype == DType::kQ6_K) return Q6_K(block, i);
}

/// A block of a file.
struct BlockShape {
  int elements;
  int bytes;
};

template <DType kDtype>
__global__ void ExpandRowsKernel(const std::byte* data, int64_t columns, BlockShape shape,
                                 float scale, float* out) {
  BeginKernel();
  const int64_t i = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  if (i >= columns) return;
  const int64_t block = (blockIdx.x * columns + i) / shape.elements;
  const float value =
      Element<kDtype>(data + block * shape.bytes, static_cast<int>(i % shape.elements));
  out[blockIdx.x * columns + i] = value * scale;
}

__global__ void TakeRowsKernel(const uint16_t* table, int64_t row_words, const int32_t* tokens,
                               const int32_t* from, uint16_t* out) {
  BeginKernel();
  const int64_t i = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  const int32_t row = from[blockIdx.x];
  if (i >= row_words || row < 0) return;
  const int32_t token = tokens[row] < 0 ? 0 : tokens[row];
  out[blockIdx.x * row_words + i] = table[token * row_words + i];
}

template <DType kDtype>
void LaunchOf(CudaStream stream, const FileRows& rows, float scale, float* out) {
  Launch(stream, {Blocks(rows.count, 1), Blocks(rows.columns, kThreads)}, kThreads, 0,
         ExpandRowsKernel<kDtype>, rows.data, rows.columns,
         BlockShape{static_cast<int>(BlockElements(kDtype)), static_cast<int>(BlockBytes(kDtype))},
         scale, out);
}

}  // namespace

void LaunchExpandRows(CudaStream stream, const FileRows& rows, float scale, float* out) {
  switch (rows.dtype) {
    case DType::kF32:
      return LaunchOf<DType::kF32>(stream, rows, scale, out);
    case DType::kF16:
      return LaunchOf<DType::kF16>(stream, rows, scale, out);
    case DType::kBF16:
      return LaunchOf<DType::kBF16>(stream, rows, scale, out);
    case DType::kQ4_0:
      return LaunchOf<DType::kQ4_0>(stream, rows, scale, out);
    case DType::kQ4_1:
      return LaunchOf<DType::kQ4_1>(stream, rows, scale, out);
    case DType::kQ5_0:
      return LaunchOf<DType::kQ5_0>(stream, rows, scale, out);
    case DType::kQ5_1:
      return LaunchOf<DType::kQ5_1>(stream, rows, scale, out);
    case DType::kQ8_0:
      return LaunchOf<DType::kQ8_0>(stream, rows, scale, out);
    case DType::kQ2_K:
      return LaunchOf<DType::kQ2_K>(stream, rows, scale, out);
    case DType::kQ3_K:
      return LaunchOf<DType::kQ3_K>(stream, rows, scale, out);
    case DType::kQ4_K:
      return LaunchOf<DType::kQ4_K>(stream, rows, scale, out);
    case DType::kQ5_K:
      return LaunchOf<DType::kQ5_K>(stream, rows, scale, out);
    case DType::kQ6_K:
      return LaunchOf<DType::kQ6_K>(stream, rows, scale, out);
  }
}

void LaunchTakeRows(CudaStream stream, const std::byte* table, int64_t row_bytes,
                    const int32_t* tokens, const int32_t* from, int64_t count, std::byte* out) {
  const int64_t words = row_bytes / 2;
  Launch(stream, {Blocks(count, 1), Blocks(words, kThreads)}, kThreads, 0, TakeRowsKernel,
         reinterpret_cast<const uint16_t*>(table), words, tokens, from,
         reinterpret_cast<uint16_t*>(out));
}

}  // namespace tandem::core
