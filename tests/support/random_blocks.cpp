#include <algorithm>
#include <cstring>

#include "core/base/float_convert.h"
#include "tests/support/random.h"
#include "tests/support/tiny_model.h"

namespace tandem::testing {
namespace {

using core::DType;

void StoreHalf(std::byte* to, float value) {
  const uint16_t half = core::FloatToHalf(value);
  std::memcpy(to, &half, sizeof(half));
}

/// Bytes of one block of a quantized type. Codes are random; scales vary by a factor of two around
/// what gives [-range, range]; minimums lie near the middle of the codes.
class BlockFiller {
 public:
  BlockFiller(DType dtype, float range, SplitMix& random)
      : dtype_(dtype), range_(range), random_(random) {}

  void Fill(std::byte* block, int64_t bytes) {
    for (int64_t i = 0; i < bytes; ++i) block[i] = static_cast<std::byte>(random_.Next());
    const float range = range_ * (0.5F + random_.Unit());
    switch (dtype_) {
      case DType::kQ4_0:
        StoreHalf(block, range / 8);
        break;
      case DType::kQ5_0:
        StoreHalf(block, range / 16);
        break;
      case DType::kQ8_0:
        StoreHalf(block, range / 127);
        break;
      case DType::kQ4_1:
        StoreHalf(block, 2 * range / 15);
        StoreHalf(block + 2, -range);
        break;
      case DType::kQ5_1:
        StoreHalf(block, 2 * range / 31);
        StoreHalf(block + 2, -range);
        break;
      case DType::kQ2_K:
        for (int i = 0; i < 16; ++i) {
          const int scale = Scale(15);
          block[i] = static_cast<std::byte>(scale | Near(scale, 15) << 4);
        }
        StoreHalf(block + 80, 2 * range / (15 * 3));
        StoreHalf(block + 82, range / 15);
        break;
      case DType::kQ3_K:
        StoreHalf(block + 108, range / (32 * 4));
        break;
      case DType::kQ4_K:
        PackScales(block + 4);
        StoreHalf(block, 2 * range / (63 * 15));
        StoreHalf(block + 2, range / 63);
        break;
      case DType::kQ5_K:
        PackScales(block + 4);
        StoreHalf(block, 2 * range / (63 * 31));
        StoreHalf(block + 2, range / 63);
        break;
      case DType::kQ6_K:
        StoreHalf(block + 208, range / (127 * 32));
        break;
      case DType::kF32:
      case DType::kF16:
      case DType::kBF16:
        break;
    }
  }

 private:
  int Scale(int high) { return static_cast<int>(random_.Next() % static_cast<uint64_t>(high + 1)); }
  int Near(int scale, int high) { return std::clamp(scale + Scale(2) - 1, 0, high); }

  /// Eight pairs of six-bit scale and minimum in the 12 bytes of Q4_K and Q5_K.
  void PackScales(std::byte* bytes) {
    int scales[8];
    int minimums[8];
    for (int i = 0; i < 8; ++i) {
      scales[i] = Scale(63);
      minimums[i] = Near(scales[i], 63);
    }
    for (int i = 0; i < 4; ++i) {
      bytes[i] = static_cast<std::byte>(scales[i] | scales[i + 4] >> 4 << 6);
      bytes[i + 4] = static_cast<std::byte>(minimums[i] | minimums[i + 4] >> 4 << 6);
      bytes[i + 8] = static_cast<std::byte>((scales[i + 4] & 15) | (minimums[i + 4] & 15) << 4);
    }
  }

  DType dtype_;
  float range_;
  SplitMix& random_;
};

template <typename T, typename Convert>
void FillPlain(std::vector<std::byte>& bytes, float range, SplitMix& random, Convert convert) {
  for (size_t i = 0; i < bytes.size(); i += sizeof(T)) {
    const T value = convert((2 * random.Unit() - 1) * range);
    std::memcpy(bytes.data() + i, &value, sizeof(T));
  }
}

}  // namespace

std::vector<std::byte> RandomBlocks(DType dtype, int64_t elements, float range, uint64_t seed) {
  SplitMix random(seed);
  const int64_t block_bytes = core::BlockBytes(dtype);
  std::vector<std::byte> bytes(static_cast<size_t>(core::RowBytes(dtype, elements)));
  switch (dtype) {
    case DType::kF32:
      FillPlain<float>(bytes, range, random, [](float x) { return x; });
      break;
    case DType::kF16:
      FillPlain<uint16_t>(bytes, range, random, core::FloatToHalf);
      break;
    case DType::kBF16:
      FillPlain<uint16_t>(bytes, range, random, [](float x) {
        return static_cast<uint16_t>(std::bit_cast<uint32_t>(x) >> 16);
      });
      break;
    default: {
      BlockFiller filler(dtype, range, random);
      for (size_t i = 0; i < bytes.size(); i += static_cast<size_t>(block_bytes)) {
        filler.Fill(bytes.data() + i, block_bytes);
      }
    }
  }
  return bytes;
}

}  // namespace tandem::testing
