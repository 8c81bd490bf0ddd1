#include "core/model/dtype.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "core/base/float_convert.h"

namespace tandem::core {
namespace {

struct Format {
  DType dtype;
  std::string_view name;
  int64_t elements;  // of a block
  int64_t bytes;     // of a block
};

constexpr Format kFormats[] = {
    {DType::kF32, "F32", 1, 4},       {DType::kF16, "F16", 1, 2},
    {DType::kBF16, "BF16", 1, 2},     {DType::kQ4_0, "Q4_0", 32, 18},
    {DType::kQ4_1, "Q4_1", 32, 20},   {DType::kQ5_0, "Q5_0", 32, 22},
    {DType::kQ5_1, "Q5_1", 32, 24},   {DType::kQ8_0, "Q8_0", 32, 34},
    {DType::kQ2_K, "Q2_K", 256, 84},  {DType::kQ3_K, "Q3_K", 256, 110},
    {DType::kQ4_K, "Q4_K", 256, 144}, {DType::kQ5_K, "Q5_K", 256, 176},
    {DType::kQ6_K, "Q6_K", 256, 210},
};

const Format& FormatOf(DType dtype) {
  for (const Format& format : kFormats) {
    if (format.dtype == dtype) return format;
  }
  assert(false && "a DType outside its enumerators");
  return kFormats[0];
}

template <typename T>
T Load(const std::byte* data) {
  T value;
  std::memcpy(&value, data, sizeof(T));
  return value;
}

float LoadHalf(const std::byte* data) { return HalfToFloat(Load<uint16_t>(data)); }
int Byte(const std::byte* data, int64_t i) { return std::to_integer<int>(data[i]); }
int SignedByte(const std::byte* data, int64_t i) { return static_cast<int8_t>(Byte(data, i)); }

// Blocks of 32. Low nibbles are elements 0 to 15, high nibbles 16 to 31.

// half scale; nibbles[16]
void Q4_0(const std::byte* block, float* out) {
  const float d = LoadHalf(block);
  for (int i = 0; i < 16; ++i) {
    const int codes = Byte(block + 2, i);
    out[i] = d * static_cast<float>((codes & 15) - 8);
    out[i + 16] = d * static_cast<float>((codes >> 4) - 8);
  }
}

// half scale; half minimum; nibbles[16]
void Q4_1(const std::byte* block, float* out) {
  const float d = LoadHalf(block);
  const float m = LoadHalf(block + 2);
  for (int i = 0; i < 16; ++i) {
    const int codes = Byte(block + 4, i);
    out[i] = d * static_cast<float>(codes & 15) + m;
    out[i + 16] = d * static_cast<float>(codes >> 4) + m;
  }
}

// half scale; fifth bits of all 32; nibbles[16]
void Q5_0(const std::byte* block, float* out) {
  const float d = LoadHalf(block);
  const auto high = Load<uint32_t>(block + 2);
  for (int i = 0; i < 16; ++i) {
    const int codes = Byte(block + 6, i);
    const int low_bit = static_cast<int>(high >> i & 1);
    const int high_bit = static_cast<int>(high >> (i + 16) & 1);
    out[i] = d * static_cast<float>(((codes & 15) | low_bit << 4) - 16);
    out[i + 16] = d * static_cast<float>((codes >> 4 | high_bit << 4) - 16);
  }
}

// half scale; half minimum; fifth bits of all 32; nibbles[16]
void Q5_1(const std::byte* block, float* out) {
  const float d = LoadHalf(block);
  const float m = LoadHalf(block + 2);
  const auto high = Load<uint32_t>(block + 4);
  for (int i = 0; i < 16; ++i) {
    const int codes = Byte(block + 8, i);
    const int low_bit = static_cast<int>(high >> i & 1);
    const int high_bit = static_cast<int>(high >> (i + 16) & 1);
    out[i] = d * static_cast<float>((codes & 15) | low_bit << 4) + m;
    out[i + 16] = d * static_cast<float>(codes >> 4 | high_bit << 4) + m;
  }
}

// half scale; int8 codes[32]
void Q8_0(const std::byte* block, float* out) {
  const float d = LoadHalf(block);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(SignedByte(block + 2, i));
}

// Superblocks of 256. "Group" is a run of elements with one scale.

// 16 groups of 16: (scale, minimum) nibbles[16]; 2-bit codes[64]; half d; half dmin. A run of 32
// code bytes holds four runs of 32 elements, two bits each.
void Q2_K(const std::byte* block, float* out) {
  const std::byte* scales = block;
  const std::byte* codes = block + 16;
  const float d = LoadHalf(block + 80);
  const float dmin = LoadHalf(block + 82);
  for (int i = 0; i < 256; ++i) {
    const int scale = Byte(scales, i / 16);
    const int code = Byte(codes, i / 128 * 32 + i % 32) >> (i / 32 % 4 * 2) & 3;
    out[i] = d * static_cast<float>(scale & 15) * static_cast<float>(code) -
             dmin * static_cast<float>(scale >> 4);
  }
}

// 16 groups of 16: third bits[32], inverted; 2-bit codes[64] as Q2_K; 6-bit scales in 12 bytes;
// half d.
void Q3_K(const std::byte* block, float* out) {
  const std::byte* high = block;
  const std::byte* codes = block + 32;
  const std::byte* scales = block + 96;
  const float d = LoadHalf(block + 108);
  for (int i = 0; i < 256; ++i) {
    const int group = i / 16;
    const int low4 = Byte(scales, group % 8) >> (group / 8 * 4) & 15;
    const int high2 = Byte(scales + 8, group % 4) >> (group / 4 * 2) & 3;
    const int scale = (low4 | high2 << 4) - 32;
    const int low = Byte(codes, i / 128 * 32 + i % 32) >> (i / 32 % 4 * 2) & 3;
    const int third = Byte(high, i % 32) >> (i / 32) & 1;
    out[i] = d * static_cast<float>(scale) * static_cast<float>(low - (third != 0 ? 0 : 4));
  }
}

/// Six-bit scale and minimum of group 0 to 7 from the 12 bytes that Q4_K and Q5_K share.
struct ScaleMinimum {
  int scale;
  int minimum;
};
ScaleMinimum GroupScale(const std::byte* scales, int group) {
  if (group < 4) return {Byte(scales, group) & 63, Byte(scales, group + 4) & 63};
  const int low = Byte(scales, group + 4);
  return {(low & 15) | (Byte(scales, group - 4) >> 6) << 4, low >> 4 | (Byte(scales, group) >> 6)
                                                                           << 4};
}

// half d; half dmin; 8 groups of 32: scales[12]; nibbles[128]. A run of 32 code bytes holds two
// groups.
void Q4_K(const std::byte* block, float* out) {
  const float d = LoadHalf(block);
  const float dmin = LoadHalf(block + 2);
  const std::byte* codes = block + 16;
  for (int i = 0; i < 256; ++i) {
    const auto [scale, minimum] = GroupScale(block + 4, i / 32);
    const int code = Byte(codes, i / 64 * 32 + i % 32) >> (i / 32 % 2 * 4) & 15;
    out[i] = d * static_cast<float>(scale) * static_cast<float>(code) -
             dmin * static_cast<float>(minimum);
  }
}

// half d; half dmin; 8 groups of 32: scales[12]; fifth bits[32], one bit a group; nibbles[128].
void Q5_K(const std::byte* block, float* out) {
  const float d = LoadHalf(block);
  const float dmin = LoadHalf(block + 2);
  const std::byte* high = block + 16;
  const std::byte* codes = block + 48;
  for (int i = 0; i < 256; ++i) {
    const auto [scale, minimum] = GroupScale(block + 4, i / 32);
    const int low = Byte(codes, i / 64 * 32 + i % 32) >> (i / 32 % 2 * 4) & 15;
    const int fifth = Byte(high, i % 32) >> (i / 32) & 1;
    out[i] = d * static_cast<float>(scale) * static_cast<float>(low | fifth << 4) -
             dmin * static_cast<float>(minimum);
  }
}

// low nibbles[128]; high two bits[64]; int8 scales[16]; half d. 16 groups of 16.
void Q6_K(const std::byte* block, float* out) {
  const std::byte* low = block;
  const std::byte* high = block + 128;
  const std::byte* scales = block + 192;
  const float d = LoadHalf(block + 208);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128;
    const int low4 = Byte(low, half * 64 + i % 64) >> (i / 64 % 2 * 4) & 15;
    const int high2 = Byte(high, half * 32 + i % 32) >> (i / 32 % 4 * 2) & 3;
    out[i] = d * static_cast<float>(SignedByte(scales, i / 16)) *
             static_cast<float>((low4 | high2 << 4) - 32);
  }
}

template <typename Block>
void EachBlock(DType dtype, const std::byte* data, int64_t elements, float* out, Block block) {
  const Format& format = FormatOf(dtype);
  for (int64_t i = 0; i < elements / format.elements; ++i) {
    block(data + i * format.bytes, out + i * format.elements);
  }
}

}  // namespace

std::string_view DTypeName(DType dtype) { return FormatOf(dtype).name; }

std::optional<DType> DTypeFromGgml(uint32_t number) {
  for (const Format& format : kFormats) {
    if (static_cast<uint32_t>(format.dtype) == number) return format.dtype;
  }
  return std::nullopt;
}

int64_t BlockElements(DType dtype) { return FormatOf(dtype).elements; }
int64_t BlockBytes(DType dtype) { return FormatOf(dtype).bytes; }

void Dequantize(DType dtype, const std::byte* data, int64_t elements, float* out) {
  switch (dtype) {
    case DType::kF32:
      std::memcpy(out, data, static_cast<size_t>(elements) * sizeof(float));
      return;
    case DType::kF16:
      return EachBlock(dtype, data, elements, out,
                       [](const std::byte* from, float* to) { *to = LoadHalf(from); });
    case DType::kBF16:
      return EachBlock(dtype, data, elements, out, [](const std::byte* from, float* to) {
        *to = Bfloat16ToFloat(Load<uint16_t>(from));
      });
    case DType::kQ4_0:
      return EachBlock(dtype, data, elements, out, Q4_0);
    case DType::kQ4_1:
      return EachBlock(dtype, data, elements, out, Q4_1);
    case DType::kQ5_0:
      return EachBlock(dtype, data, elements, out, Q5_0);
    case DType::kQ5_1:
      return EachBlock(dtype, data, elements, out, Q5_1);
    case DType::kQ8_0:
      return EachBlock(dtype, data, elements, out, Q8_0);
    case DType::kQ2_K:
      return EachBlock(dtype, data, elements, out, Q2_K);
    case DType::kQ3_K:
      return EachBlock(dtype, data, elements, out, Q3_K);
    case DType::kQ4_K:
      return EachBlock(dtype, data, elements, out, Q4_K);
    case DType::kQ5_K:
      return EachBlock(dtype, data, elements, out, Q5_K);
    case DType::kQ6_K:
      return EachBlock(dtype, data, elements, out, Q6_K);
  }
}

}  // namespace tandem::core
