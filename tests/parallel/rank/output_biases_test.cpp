#include <gtest/gtest.h>

#include <cstring>

#include "core/formats/model_file.h"
#include "tests/support/forward_runner.h"
#include "tests/support/tiny_model.h"

namespace tandem::parallel {
namespace {

using testing::TinyModelSpec;

/// The values of a float tensor of the model in `bytes`.
std::span<float> Values(std::vector<std::byte>& bytes, std::string_view name) {
  const auto file = core::GgufFile::OpenBuffer(bytes, "model");
  const core::GgufTensor* tensor = (*file)->FindTensor(name);
  auto* values = reinterpret_cast<float*>(bytes.data() + (tensor->data.data() - bytes.data()));
  return {values, static_cast<size_t>(tensor->elements())};
}

std::vector<float> Logits(const std::vector<std::byte>& bytes,
                          const testing::ForwardOptions& options) {
  const auto file = core::ModelFile::OpenBuffer(bytes, "model");
  EXPECT_TRUE(file.ok()) << file.status();
  const auto found = testing::RunForward(**file, std::vector<int32_t>{3, 5, 7, 11, 13}, options);
  EXPECT_TRUE(found.ok()) << found.status();
  return found.ok() ? found->logits : std::vector<float>();
}

/// Of a model whose two products before the residual give 0, the biases alone are added, in this
/// order: exactly as if the embedding had them in it.
TEST(OutputBiases, AreAddedOnceBehindTheSum) {
  const TinyModelSpec spec{.layers = 1, .tied_head = false, .output_biases = true};
  std::vector<std::byte> biased = testing::TinyModel(spec);
  for (const char* product : {"blk.0.attn_output.weight", "blk.0.ffn_down.weight"}) {
    for (float& value : Values(biased, product)) value = 0;
  }
  std::vector<std::byte> embedded = biased;
  const std::span<float> table = Values(embedded, "token_embd.weight");
  for (const char* name : {"blk.0.attn_output.bias", "blk.0.ffn_down.bias"}) {
    const std::span<float> bias = Values(embedded, name);
    for (size_t i = 0; i < table.size(); ++i) table[i] += bias[i % bias.size()];
    for (float& value : bias) value = 0;
  }
  for (const int ranks : {1, 2, 4}) {
    const auto logits = Logits(biased, {.ranks = ranks});
    EXPECT_EQ(logits, Logits(embedded, {.ranks = ranks})) << ranks;
    EXPECT_NE(logits, Logits(testing::TinyModel({.layers = 1, .tied_head = false}), {}));
  }
}

TEST(OutputBiases, EveryFamilyHasTheSameBitsAtAnyRankCount) {
  for (const core::FamilyTraits& traits : core::Families()) {
    const std::vector<std::byte> bytes =
        testing::TinyModel({.family = traits.family, .output_biases = true});
    const auto alone = Logits(bytes, {});
    const auto without = testing::TinyModel({.family = traits.family});
    if (without != bytes) {
      EXPECT_NE(alone, Logits(without, {}));
    }
    for (const int ranks : {2, 3, 4}) EXPECT_EQ(Logits(bytes, {.ranks = ranks}), alone) << ranks;
  }
}

}  // namespace
}  // namespace tandem::parallel
