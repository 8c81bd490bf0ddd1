// What tells families apart: norms, positions, parts that only some have.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "core/formats/config_gguf.h"
#include "core/formats/model_file.h"
#include "tests/support/tiny_model.h"

namespace tandem::core {
namespace {

using ::testing::ElementsAre;
using testing::GgufWriter;
using ::testing::HasSubstr;
using testing::TinyModelSpec;

/// The config of such a model, or why it is refused.
absl::StatusOr<ModelConfig> ConfigIn(const TinyModelSpec& spec) {
  const std::vector<std::byte> bytes = testing::TinyModel(spec);
  const auto file = ModelFile::OpenBuffer(bytes, "m");
  if (!file.ok()) return file.status();
  return (*file)->config();
}

TinyModelSpec With(TinyModelSpec spec, std::function<void(GgufWriter&)> metadata) {
  spec.metadata = std::move(metadata);
  return spec;
}

std::string ErrorIn(const TinyModelSpec& spec) {
  const auto config = ConfigIn(spec);
  EXPECT_FALSE(config.ok());
  return std::string(config.status().message());
}

TEST(FamilyNorms, AFileMaySayAnotherNorm) {
  for (const FamilyTraits& traits : Families()) {
    const auto own = ConfigIn({.family = traits.family});
    ASSERT_TRUE(own.ok()) << own.status();
    EXPECT_EQ(own->norm, traits.norm);
    for (const NormKind kind : {NormKind::kRms, NormKind::kLayer, NormKind::kBatch}) {
      const auto other = ConfigIn({.family = traits.family, .norm = kind});
      ASSERT_TRUE(other.ok()) << traits.architecture << other.status();
      EXPECT_EQ(other->norm, kind);
    }
  }
  EXPECT_EQ(ErrorIn(With({}, [](GgufWriter& w) { w.AddString("llama.norm_type", "group"); })),
            "m: key 'llama.norm_type' is \"group\", expected rms, layer or batch");
}

TEST(FamilyNorms, EachKindReadsItsOwnEpsilonFirst) {
  const auto both = [](NormKind kind) {
    return With({.norm = kind}, [](GgufWriter& writer) {
      writer.AddFloat("llama.attention.layer_norm_epsilon", 1e-3F);
    });
  };
  for (const NormKind kind : {NormKind::kRms, NormKind::kLayer, NormKind::kBatch}) {
    const auto config = ConfigIn(both(kind));
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->norm_epsilon, kind == NormKind::kRms ? 1e-6F : 1e-3F);
    // Where there is one key, that one.
    const auto alone = ConfigIn({.norm = kind});
    ASSERT_TRUE(alone.ok()) << alone.status();
    EXPECT_EQ(alone->norm_epsilon, 1e-6F);
  }
}

TEST(FamilyNorms, NormsThatKeepTheirKindReadTheEpsilonOfTheirs) {
  const auto heads =
      ConfigIn(With({.family = Family::kQwen3, .norm = NormKind::kLayer}, [](GgufWriter& w) {
        w.AddFloat("qwen3.attention.layer_norm_epsilon", 1e-3F);
      }));
  ASSERT_TRUE(heads.ok()) << heads.status();
  EXPECT_EQ(heads->norm_epsilon, 1e-3F);
  EXPECT_EQ(heads->head_norm_epsilon, 1e-6F);
  const auto embedding =
      ConfigIn(With({.family = Family::kBloom, .norm = NormKind::kRms}, [](GgufWriter& w) {
        w.AddFloat("bloom.attention.layer_norm_rms_epsilon", 1e-3F);
      }));
  ASSERT_TRUE(embedding.ok()) << embedding.status();
  EXPECT_EQ(embedding->norm_epsilon, 1e-3F);
  EXPECT_EQ(embedding->embedding_norm_epsilon, 1e-6F);
}

TEST(FamilyNorms, TheEpsilonOfABatchNormMayBeZero) {
  for (const Family family : {Family::kLlama, Family::kGpt2}) {
    const auto batch = ConfigIn({.family = family, .norm = NormKind::kBatch, .epsilon = 0.0F});
    ASSERT_TRUE(batch.ok()) << batch.status();
    EXPECT_EQ(batch->norm_epsilon, 0.0F);
  }
  // Queries and keys, and bloom's embedding, have norms that need one.
  for (const Family family : {Family::kQwen3, Family::kBloom}) {
    EXPECT_THAT(ErrorIn({.family = family, .norm = NormKind::kBatch, .epsilon = 0.0F}),
                HasSubstr("epsilon' is 0, expected a number between 0 and 1"));
  }
}

TEST(FamilyNorms, StatisticsThatAreMissingAreNamed) {
  TinyModelSpec spec = With({}, [](GgufWriter& w) { w.AddString("llama.norm_type", "batch"); });
  EXPECT_EQ(ErrorIn(spec),
            "m: tensor 'blk.0.attn_norm.running_mean' [64] is missing: a batch norm needs its "
            "statistics");
}

TEST(FamilyNorms, WeightsMayBeMissingWhereTheFileSaysTheNorm) {
  TinyModelSpec spec{.norm = NormKind::kLayer};
  spec.norm_weights = false;
  const auto config = ConfigIn(spec);
  ASSERT_TRUE(config.ok()) << config.status();
  spec.norm.reset();
  EXPECT_THAT(ErrorIn(spec), HasSubstr("tensor 'blk.0.attn_norm.weight' [64] is missing"));
}

TEST(FamilyParts, NormsOfOtherFamiliesAreRefused) {
  const auto error = [](Family family, const std::string& tensor) {
    return ErrorIn(With({.family = family, .kv_heads = 4}, [&](GgufWriter& writer) {
      const int64_t dims[] = {64};
      writer.AddTensor(tensor, DType::kF32, dims, std::vector<std::byte>(64 * sizeof(float)));
    }));
  };
  for (const auto& [family, tensor] : {std::pair{Family::kStarCoder2, "blk.0.attn_norm_2.weight"},
                                       {Family::kGptNeoX, "blk.0.attn_norm_2.weight"},
                                       {Family::kFalcon, "blk.0.ffn_norm.weight"},
                                       {Family::kPhi2, "blk.0.ffn_norm.bias"},
                                       {Family::kGpt2, "token_embd_norm.weight"},
                                       {Family::kLlama, "token_embd_norm.bias"},
                                       {Family::kBloom, "position_embd.weight"}}) {
    EXPECT_THAT(error(family, tensor),
                HasSubstr(fmt::format("tensor '{}' [64] is not part of the {} models", tensor,
                                      FamilyName(family))));
  }
}

TEST(FamilyParts, ParallelBlocksHaveTheNormsOfTheirFamily) {
  // Weights may be missing: the statistics alone are a norm.
  TinyModelSpec neox{.family = Family::kGptNeoX, .kv_heads = 4, .norm = NormKind::kBatch};
  neox.norm_weights = false;
  const auto batch = ConfigIn(neox);
  ASSERT_TRUE(batch.ok()) << batch.status();
  EXPECT_TRUE(batch->parallel_residual && batch->HasFeedForwardNorm());
  // Many files of sequential StableLM models say that they are parallel.
  const auto stable = ConfigIn(With({.family = Family::kStableLm}, [](GgufWriter& writer) {
    writer.AddBool("stablelm.use_parallel_residual", true);
  }));
  ASSERT_TRUE(stable.ok()) << stable.status();
  EXPECT_FALSE(stable->parallel_residual);
  EXPECT_TRUE(stable->HasFeedForwardNorm());
  EXPECT_THAT(ErrorIn(With({.family = Family::kFalcon},
                           [](GgufWriter& writer) {
                             writer.AddBool("falcon.use_parallel_residual", false);
                           })),
              HasSubstr("key 'falcon.use_parallel_residual' is false: this is not supported"));
}

TEST(FamilyParts, PositionsAreRotatedLearnedOrDistances) {
  const auto config_of = [](Family family) { return *ConfigIn({.family = family}); };
  EXPECT_FALSE(config_of(Family::kLlama).rope.inverse_frequencies.empty());
  EXPECT_TRUE(config_of(Family::kGpt2).rope.inverse_frequencies.empty());
  EXPECT_TRUE(config_of(Family::kGpt2).Has("position_embd.weight"));
  EXPECT_EQ(config_of(Family::kBloom).alibi_max_bias, 8.0F);
  EXPECT_EQ(config_of(Family::kMpt).alibi_max_bias, 0.0F);
  const auto mpt = ConfigIn(With({.family = Family::kMpt}, [](GgufWriter& writer) {
    writer.AddFloat("mpt.attention.max_alibi_bias", 6.0F);
  }));
  ASSERT_TRUE(mpt.ok()) << mpt.status();
  EXPECT_EQ(mpt->alibi_max_bias, 6.0F);
  EXPECT_THAT(ErrorIn(With({.family = Family::kMpt},
                           [](GgufWriter& writer) {
                             writer.AddFloat("mpt.attention.max_alibi_bias", -1.0F);
                           })),
              HasSubstr("key 'mpt.attention.max_alibi_bias' is -1, expected a number from 0"));
  EXPECT_THAT(
      ErrorIn(With({.family = Family::kMpt},
                   [](GgufWriter& writer) { writer.AddFloat("mpt.attention.clamp_kqv", 6.0F); })),
      HasSubstr("key 'mpt.attention.clamp_kqv' is 6: this is not supported"));
}

TEST(FamilyParts, AlibiSlopes) {
  EXPECT_THAT(AlibiSlopes(0.0F, 4), ElementsAre());
  EXPECT_THAT(AlibiSlopes(8.0F, 4), ElementsAre(0x1p-2F, 0x1p-4F, 0x1p-6F, 0x1p-8F));
  // As the authors' code has it for 6 heads.
  EXPECT_THAT(AlibiSlopes(8.0F, 6),
              ElementsAre(0x1p-2F, 0x1p-4F, 0x1p-6F, 0x1p-8F, 0x1p-1F, 0x1p-3F));
}

}  // namespace
}  // namespace tandem::core
