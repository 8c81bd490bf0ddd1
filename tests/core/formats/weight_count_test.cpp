#include "core/formats/weight_count.h"

#include <gtest/gtest.h>

#include "tests/support/tiny_model.h"

namespace tandem::core {
namespace {

WeightCount CountOf(const testing::TinyModelSpec& spec) {
  const std::vector<std::byte> bytes = testing::TinyModel(spec);
  const auto file = ModelFile::OpenBuffer(bytes, "tiny");
  EXPECT_TRUE(file.ok()) << file.status();
  return file.ok() ? CountWeights(**file) : WeightCount{};
}

// Of a layer of the default shape: query 128 x 64, key and value 64 x 64, output 64 x 128, gate and
// up 160 x 64, down 64 x 160.
constexpr int64_t kLayer = 128 * 64 + 2 * 64 * 64 + 64 * 128 + 3 * 160 * 64;
constexpr int64_t kHead = 100 * 64;

TEST(CountWeights, TakesLayersAndATiedHeadAndNoVectors) {
  const WeightCount count = CountOf({.dtype = DType::kQ4_0, .embedding_dtype = DType::kQ8_0});
  EXPECT_EQ(count.multiply_adds, 2 * kLayer + kHead);
  EXPECT_EQ(count.bytes, 2 * kLayer / 32 * 18 + kHead / 32 * 34);
  EXPECT_EQ(count.quantized_layers, 2 * kLayer);
  EXPECT_EQ(count.quantized_head, kHead);
}

TEST(CountWeights, LeavesOutAnEmbeddingThatIsNotTheHead) {
  const WeightCount tied = CountOf({.dtype = DType::kQ4_1, .embedding_dtype = DType::kF32});
  const WeightCount untied =
      CountOf({.dtype = DType::kQ4_1, .embedding_dtype = DType::kF32, .tied_head = false});
  EXPECT_EQ(tied.bytes, 2 * kLayer / 32 * 20 + kHead * 4);
  EXPECT_EQ(untied.bytes, tied.bytes);
  EXPECT_EQ(untied.multiply_adds, tied.multiply_adds);
}

TEST(CountWeights, CountsFloatsAsNotQuantized) {
  const WeightCount count = CountOf({.dtype = DType::kF16, .embedding_dtype = DType::kBF16});
  EXPECT_EQ(count.multiply_adds, 2 * kLayer + kHead);
  EXPECT_EQ(count.bytes, 2 * count.multiply_adds);
  EXPECT_EQ(count.quantized_layers, 0);
  EXPECT_EQ(count.quantized_head, 0);
}

}  // namespace
}  // namespace tandem::core
