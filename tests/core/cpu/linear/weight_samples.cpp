#include "tests/core/cpu/linear/weight_samples.h"

#include <bit>
#include <cstring>

#include "core/base/float_convert.h"

namespace tandem::core {
namespace {

class Writer {
 public:
  explicit Writer(std::byte* at) : at_(at) {}
  void U8(int value) { *at_++ = static_cast<std::byte>(value); }
  void Half(uint16_t value) {
    std::memcpy(at_, &value, 2);
    at_ += 2;
  }

 private:
  std::byte* at_;
};

class Maker {
 public:
  Maker(WeightSample& sample, uint32_t seed, CodeChoice choice)
      : s_(sample), random_(seed), choice_(choice) {}

  void Make() {
    s_.bytes.resize(static_cast<size_t>(s_.rows * RowBytes(s_.dtype, s_.columns)));
    s_.values.resize(static_cast<size_t>(s_.rows * s_.columns));
    switch (s_.dtype) {
      case DType::kF32:
      case DType::kF16:
      case DType::kBF16:
        return Plain();
      case DType::kQ2_K:
      case DType::kQ3_K:
      case DType::kQ6_K:
        s_.group = 16;
        break;
      default:
        s_.group = 32;
    }
    s_.codes.resize(s_.values.size());
    const auto groups = static_cast<size_t>(s_.rows * s_.columns / s_.group);
    s_.scales.resize(groups);
    const bool offset = s_.dtype == DType::kQ4_1 || s_.dtype == DType::kQ5_1 ||
                        s_.dtype == DType::kQ2_K || s_.dtype == DType::kQ4_K ||
                        s_.dtype == DType::kQ5_K;
    if (offset) s_.offsets.resize(groups);
    const int64_t unit = BlockElements(s_.dtype);
    const int64_t blocks = s_.rows * s_.columns / unit;
    for (int64_t b = 0; b < blocks; ++b) {
      std::byte* out = s_.bytes.data() + b * BlockBytes(s_.dtype);
      const int64_t first = b * unit;
      switch (s_.dtype) {
        case DType::kQ4_0:
        case DType::kQ4_1:
        case DType::kQ5_0:
        case DType::kQ5_1:
          Legacy(first, out);
          break;
        case DType::kQ8_0:
          Q8(first, out);
          break;
        case DType::kQ2_K:
          Q2K(first, out);
          break;
        case DType::kQ3_K:
          Q3K(first, out);
          break;
        case DType::kQ4_K:
        case DType::kQ5_K:
          Q45K(first, out);
          break;
        default:
          Q6K(first, out);
      }
    }
    for (size_t i = 0; i < s_.values.size(); ++i) {
      const size_t g = i / static_cast<size_t>(s_.group);
      s_.values[i] = s_.scales[g] * static_cast<float>(s_.codes[i]);
      if (offset) s_.values[i] += s_.offsets[g];
    }
  }

 private:
  int Int(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
  /// A float16 of usual size, either sign.
  uint16_t RandomHalf() { return FloatToHalf(static_cast<float>(Int(-2000, 2000)) / 65536.0F); }
  size_t Group(int64_t element) const { return static_cast<size_t>(element / s_.group); }

  void Plain() {
    for (size_t i = 0; i < s_.values.size(); ++i) {
      const float value = std::normal_distribution<float>()(random_);
      if (s_.dtype == DType::kF32) {
        s_.values[i] = value;
        std::memcpy(s_.bytes.data() + 4 * i, &value, 4);
      } else if (s_.dtype == DType::kF16) {
        const uint16_t half = FloatToHalf(value);
        s_.values[i] = HalfToFloat(half);
        std::memcpy(s_.bytes.data() + 2 * i, &half, 2);
      } else {
        const auto top = static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
        s_.values[i] = Bfloat16ToFloat(top);
        std::memcpy(s_.bytes.data() + 2 * i, &top, 2);
      }
    }
  }

  /// Random codes of `bits` bits from `first` on; they are stored reduced by `zero_point`.
  std::vector<int> Codes(int64_t first, int64_t count, int bits, int zero_point) {
    std::vector<int> codes(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
      const int largest = (1 << bits) - 1;
      codes[static_cast<size_t>(i)] = choice_ == CodeChoice::kRandom    ? Int(0, largest)
                                      : choice_ == CodeChoice::kLargest ? largest
                                                                        : 0;
      s_.codes[static_cast<size_t>(first + i)] = codes[static_cast<size_t>(i)] - zero_point;
    }
    return codes;
  }

  void Legacy(int64_t first, std::byte* out) {
    const bool five = s_.dtype == DType::kQ5_0 || s_.dtype == DType::kQ5_1;
    const bool offset = !s_.offsets.empty();
    const std::vector<int> q = Codes(first, 32, five ? 5 : 4, offset ? 0 : five ? 16 : 8);
    Writer writer(out);
    const uint16_t scale = RandomHalf();
    writer.Half(scale);
    s_.scales[Group(first)] = HalfToFloat(scale);
    if (offset) {
      const uint16_t minimum = RandomHalf();
      writer.Half(minimum);
      s_.offsets[Group(first)] = HalfToFloat(minimum);
    }
    if (five) {
      for (size_t byte = 0; byte < 4; ++byte) {
        int bits = 0;
        for (size_t k = 0; k < 8; ++k) bits |= (q[8 * byte + k] >> 4) << k;
        writer.U8(bits);
      }
    }
    for (size_t i = 0; i < 16; ++i) writer.U8((q[i] & 15) | (q[i + 16] & 15) << 4);
  }

  void Q8(int64_t first, std::byte* out) {
    const std::vector<int> q = Codes(first, 32, 8, 128);
    Writer writer(out);
    const uint16_t scale = RandomHalf();
    writer.Half(scale);
    s_.scales[Group(first)] = HalfToFloat(scale);
    for (const int code : q) writer.U8((code - 128) & 0xff);
  }

  void Q2K(int64_t first, std::byte* out) {
    const std::vector<int> q = Codes(first, 256, 2, 0);
    const uint16_t d = RandomHalf();
    const uint16_t minimum = RandomHalf();
    Writer writer(out);
    for (int64_t g = 0; g < 16; ++g) {
      const int scale = Int(0, 15);
      const int low = Int(0, 15);
      writer.U8(scale | low << 4);
      s_.scales[Group(first + 16 * g)] = HalfToFloat(d) * static_cast<float>(scale);
      s_.offsets[Group(first + 16 * g)] = -(HalfToFloat(minimum) * static_cast<float>(low));
    }
    for (size_t part = 0; part < 256; part += 128) {
      for (size_t i = part; i < part + 32; ++i) {
        writer.U8(q[i] | q[i + 32] << 2 | q[i + 64] << 4 | q[i + 96] << 6);
      }
    }
    writer.Half(d);
    writer.Half(minimum);
  }

  void Q3K(int64_t first, std::byte* out) {
    const std::vector<int> q = Codes(first, 256, 3, 4);
    const uint16_t d = RandomHalf();
    Writer writer(out);
    for (size_t i = 0; i < 32; ++i) {
      int bits = 0;
      for (size_t k = 0; k < 8; ++k) bits |= (q[32 * k + i] >> 2) << k;
      writer.U8(bits);
    }
    for (size_t part = 0; part < 256; part += 128) {
      for (size_t i = part; i < part + 32; ++i) {
        writer.U8((q[i] & 3) | (q[i + 32] & 3) << 2 | (q[i + 64] & 3) << 4 | (q[i + 96] & 3) << 6);
      }
    }
    int packed[12] = {};
    for (int g = 0; g < 16; ++g) {
      const int scale = Int(0, 63);
      s_.scales[Group(first + 16 * g)] = HalfToFloat(d) * static_cast<float>(scale - 32);
      packed[g % 8] |= (scale & 15) << (g < 8 ? 0 : 4);
      packed[8 + g % 4] |= (scale >> 4) << (2 * (g / 4));
    }
    for (const int byte : packed) writer.U8(byte);
    writer.Half(d);
  }

  void Q45K(int64_t first, std::byte* out) {
    const bool five = s_.dtype == DType::kQ5_K;
    const std::vector<int> q = Codes(first, 256, five ? 5 : 4, 0);
    const uint16_t d = RandomHalf();
    const uint16_t minimum = RandomHalf();
    Writer writer(out);
    writer.Half(d);
    writer.Half(minimum);
    int packed[12] = {};
    for (int g = 0; g < 8; ++g) {
      const int scale = Int(0, 63);
      const int low = Int(0, 63);
      s_.scales[Group(first + 32 * g)] = HalfToFloat(d) * static_cast<float>(scale);
      s_.offsets[Group(first + 32 * g)] = -(HalfToFloat(minimum) * static_cast<float>(low));
      if (g < 4) {
        packed[g] |= scale;
        packed[g + 4] |= low;
      } else {
        packed[g + 4] |= (scale & 15) | (low & 15) << 4;
        packed[g - 4] |= scale >> 4 << 6;
        packed[g] |= low >> 4 << 6;
      }
    }
    for (const int byte : packed) writer.U8(byte);
    if (five) {
      for (size_t i = 0; i < 32; ++i) {
        int bits = 0;
        for (size_t k = 0; k < 8; ++k) bits |= (q[32 * k + i] >> 4) << k;
        writer.U8(bits);
      }
    }
    for (size_t pair = 0; pair < 256; pair += 64) {
      for (size_t i = pair; i < pair + 32; ++i) writer.U8((q[i] & 15) | (q[i + 32] & 15) << 4);
    }
  }

  void Q6K(int64_t first, std::byte* out) {
    const std::vector<int> q = Codes(first, 256, 6, 32);
    const uint16_t d = RandomHalf();
    Writer writer(out);
    for (size_t part = 0; part < 256; part += 128) {
      for (size_t i = part; i < part + 64; ++i) writer.U8((q[i] & 15) | (q[i + 64] & 15) << 4);
    }
    for (size_t part = 0; part < 256; part += 128) {
      for (size_t i = part; i < part + 32; ++i) {
        writer.U8(q[i] >> 4 | q[i + 32] >> 4 << 2 | q[i + 64] >> 4 << 4 | q[i + 96] >> 4 << 6);
      }
    }
    for (int64_t g = 0; g < 16; ++g) {
      const int scale = Int(-128, 127);
      writer.U8(scale & 0xff);
      s_.scales[Group(first + 16 * g)] = HalfToFloat(d) * static_cast<float>(scale);
    }
    writer.Half(d);
  }

  WeightSample& s_;
  std::mt19937 random_;
  CodeChoice choice_;
};

}  // namespace

std::string DTypeParamName(const ::testing::TestParamInfo<DType>& info) {
  return std::string(DTypeName(info.param));
}

WeightSample MakeWeights(DType dtype, int64_t rows, int64_t columns, uint32_t seed,
                         CodeChoice choice) {
  WeightSample sample;
  sample.dtype = dtype;
  sample.rows = rows;
  sample.columns = columns;
  Maker(sample, seed, choice).Make();
  return sample;
}

}  // namespace tandem::core
