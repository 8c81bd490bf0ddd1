#include "core/model/dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "tests/support/read_file.h"

namespace tandem::core {
namespace {

TEST(Dtype, DequantizesBitForBitAsTheGgufPackage) {
  const std::string golden = testing::ReadFile(TANDEM_SOURCE_DIR "/tests/golden/dtype/dtype.bin");
  std::set<DType> seen;
  size_t at = 0;
  while (at < golden.size()) {
    uint32_t header[3];
    ASSERT_LE(at + sizeof(header), golden.size());
    std::memcpy(header, golden.data() + at, sizeof(header));
    at += sizeof(header);
    const auto [number, elements, bytes] = header;
    ASSERT_LE(at + bytes + elements * sizeof(float), golden.size());
    const std::optional<DType> dtype = DTypeFromGgml(number);
    ASSERT_TRUE(dtype) << number;
    seen.insert(*dtype);
    EXPECT_EQ(RowBytes(*dtype, elements), bytes) << DTypeName(*dtype);
    std::vector<float> expected(elements);
    std::memcpy(expected.data(), golden.data() + at + bytes, elements * sizeof(float));
    std::vector<float> found(elements);
    Dequantize(*dtype, reinterpret_cast<const std::byte*>(golden.data() + at), elements,
               found.data());
    for (size_t i = 0; i < elements; ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(found[i]), std::bit_cast<uint32_t>(expected[i]))
          << DTypeName(*dtype) << " element " << i << ": expected " << expected[i] << ", found "
          << found[i];
    }
    at += bytes + elements * sizeof(float);
  }
  EXPECT_EQ(seen.size(), 13U);
}

TEST(Dtype, NamesAndNumbersAreThoseOfGgml) {
  EXPECT_EQ(DTypeName(DType::kF32), "F32");
  EXPECT_EQ(DTypeName(DType::kQ4_K), "Q4_K");
  EXPECT_EQ(DTypeName(DType::kBF16), "BF16");
  EXPECT_EQ(DTypeFromGgml(30), DType::kBF16);
  EXPECT_EQ(DTypeFromGgml(17), std::nullopt);  // IQ2_XS
  EXPECT_EQ(BlockElements(DType::kQ6_K), 256);
  EXPECT_EQ(BlockBytes(DType::kQ6_K), 210);
}

}  // namespace
}  // namespace tandem::core
