// What tells families apart: norms, positions, parts that only some have.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

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
    EXPECT_EQ(config->head_norm_epsilon, 1e-6F);
    // Where there is one key, that one.
    const auto alone = ConfigIn({.norm = kind});
    ASSERT_TRUE(alone.ok()) << alone.status();
    EXPECT_EQ(alone->norm_epsilon, 1e-6F);
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
