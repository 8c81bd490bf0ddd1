#include "tests/support/tiny_model.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/formats/model_file.h"

namespace tandem::core {
namespace {

using ::tandem::testing::RandomBlocks;
using ::tandem::testing::TinyModel;
using ::tandem::testing::TinyModelSpec;

constexpr DType kAllDTypes[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ4_0,
                                DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ8_0,
                                DType::kQ2_K, DType::kQ3_K, DType::kQ4_K, DType::kQ5_K,
                                DType::kQ6_K};

TEST(TinyModel, OpensInEveryFamilyAndDType) {
  for (const FamilyTraits& traits : Families()) {
    const Family family = traits.family;
    for (const DType dtype : kAllDTypes) {
      TinyModelSpec spec;
      spec.family = family;
      spec.dtype = dtype;
      spec.dim = 256;
      spec.ffn_dim = 512;
      spec.vocab = 300;
      spec.tokenizer = true;
      spec.tied_head = dtype != DType::kQ4_1;
      const std::vector<std::byte> bytes = TinyModel(spec);
      const auto file = ModelFile::OpenBuffer(bytes, "tiny");
      ASSERT_TRUE(file.ok()) << file.status();
      const ModelConfig& config = (*file)->config();
      EXPECT_EQ(config.family, family);
      EXPECT_EQ(config.layers, spec.layers);
      EXPECT_EQ(config.dim, spec.dim);
      EXPECT_EQ(config.ffn_dim, spec.ffn_dim);
      EXPECT_EQ(config.heads, spec.heads);
      EXPECT_EQ(config.kv_heads, spec.kv_heads);
      EXPECT_EQ(config.head_dim, spec.head_dim);
      EXPECT_EQ(config.vocab, spec.vocab);
      EXPECT_EQ(config.tied_head, spec.tied_head);
      EXPECT_EQ(config.gated, traits.gated);
      const auto up = (*file)->Matrix("blk.1.ffn_up.weight", 512, 256);
      ASSERT_TRUE(up.ok()) << up.status();
      EXPECT_EQ(up->dtype, dtype);
    }
  }
}

TEST(TinyModel, IsTheSameForTheSameSeedOnly) {
  TinyModelSpec spec;
  const std::vector<std::byte> first = TinyModel(spec);
  EXPECT_EQ(first, TinyModel(spec));
  spec.seed = 2;
  EXPECT_NE(first, TinyModel(spec));
}

TEST(RandomBlocks, AreCenteredWithinTheirRange) {
  constexpr int64_t kElements = 256 * 64;
  constexpr float kRange = 0.25F;
  for (const DType dtype : kAllDTypes) {
    const std::vector<std::byte> blocks = RandomBlocks(dtype, kElements, kRange, 7);
    std::vector<float> values(kElements);
    Dequantize(dtype, blocks.data(), kElements, values.data());
    double sum = 0;
    double squares = 0;
    for (const float value : values) {
      ASSERT_LE(std::fabs(value), 2 * kRange) << DTypeName(dtype);
      sum += value;
      squares += double{value} * value;
    }
    const double deviation = std::sqrt(squares / kElements);
    EXPECT_GT(deviation, kRange / 8) << DTypeName(dtype);
    EXPECT_LT(std::fabs(sum / kElements), deviation / 4) << DTypeName(dtype);
  }
}

}  // namespace
}  // namespace tandem::core
