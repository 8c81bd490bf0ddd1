#include "core/model/sparse_attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#include "core/base/philox.h"
#include "core/model/attention_text.h"

namespace tandem::core {
namespace {

using ::testing::ElementsAre;

TEST(SparseAttentionMask, PhiloxHasTheKnownAnswer) {
  EXPECT_THAT(Philox4x32({0, 0, 0, 0}, {0, 0}),
              ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
}

/// The definition, word by word: sorts all candidates.
std::vector<int32_t> NaiveChoice(const AttentionForm& form, int layer, int64_t q) {
  std::vector<std::pair<uint64_t, int64_t>> scored;
  for (int64_t j = 0; j <= q; ++j) {
    if (!(64 * j >= form.global && 64 * (j + 1) <= 64 * q - form.window + 1)) continue;
    const auto words = Philox4x32(
        {static_cast<uint32_t>(j), static_cast<uint32_t>(q), static_cast<uint32_t>(layer), 0},
        {static_cast<uint32_t>(form.seed & 0xffffffff), static_cast<uint32_t>(form.seed >> 32)});
    scored.emplace_back(words[0] + (uint64_t{words[1]} << 32), j);
  }
  std::sort(scored.begin(), scored.end());
  std::vector<int32_t> chosen;
  for (size_t i = 0; i < scored.size() && i < static_cast<size_t>(form.random); ++i) {
    chosen.push_back(static_cast<int32_t>(scored[i].second));
  }
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

AttentionForm RandomForm(std::mt19937& random, int most) {
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  AttentionForm form{.window = 1 + below(below(3) == 0 ? most : 200),
                     .global = below(3) == 0 ? 0 : below(below(3) == 0 ? most : 200),
                     .random = below(3) == 0 ? 0 : below(6)};
  if (form.random > 0) form.seed = (uint64_t{random()} << 32) | random();
  return form;
}

TEST(SparseAttentionMask, ChoosesTheBlocksOfTheDefinition) {
  // Computed by an independent program (tests/golden/sparse/reference.py).
  EXPECT_THAT(ChosenBlocks({.window = 64, .random = 3}, 0, 40), ElementsAre(19, 31, 34));
  EXPECT_THAT(
      ChosenBlocks({.window = 1, .global = 65, .random = 4, .seed = 0x123456789abcdef0}, 5, 100),
      ElementsAre(49, 52, 80, 99));
  std::mt19937 random(3);
  for (int i = 0; i < 300; ++i) {
    const AttentionForm form = RandomForm(random, 3000);
    const int layer = static_cast<int>(random() % 50);
    const int64_t block = random() % 60;
    EXPECT_EQ(ChosenBlocks(form, layer, block), NaiveChoice(form, layer, block))
        << AttentionText(form) << ", layer " << layer << ", block " << block;
  }
}

/// Whether p sees k, word by word.
bool NaiveSees(const AttentionForm& form, int layer_window, const std::vector<int32_t>& chosen,
               int64_t p, int64_t k) {
  if (k > p || (layer_window > 0 && p - k >= layer_window)) return false;
  return p - k < form.window || k < form.global ||
         std::find(chosen.begin(), chosen.end(), k / 64) != chosen.end();
}

TEST(SparseAttentionMask, SeesTheKeysOfTheDefinition) {
  std::mt19937 random(4);
  for (int i = 0; i < 60; ++i) {
    const AttentionForm form = RandomForm(random, 1500);
    const int layer = static_cast<int>(random() % 4);
    const int layer_window = random() % 2 == 0 ? 0 : 1 + static_cast<int>(random() % 1000);
    SparseAttention attention(form);
    const int64_t positions = 1 + random() % 1500;
    attention.Begin();
    attention.Prepare(layer, 0, positions - 1);
    for (int64_t p = random() % 7; p < positions; p += 1 + random() % 40) {
      const SparseSight sight = attention.SightOf(layer, layer_window, p);
      const std::vector<int32_t> chosen = NaiveChoice(form, layer, p / 64);
      std::vector<int32_t> chunks;
      for (int64_t block = 0; block <= positions / kPageTokens + 1; ++block) {
        uint64_t bits = 0;
        for (int64_t k = 64 * block; k < 64 * block + 64; ++k) {
          if (NaiveSees(form, layer_window, chosen, p, k)) bits |= uint64_t{1} << (k % 64);
        }
        ASSERT_EQ(sight.OfBlock(block), bits)
            << AttentionText(form) << ", window of the layer " << layer_window << ", position " << p
            << ", block " << block;
        const auto chunk = static_cast<int32_t>(block / 4);
        if (bits != 0 && (chunks.empty() || chunks.back() != chunk)) chunks.push_back(chunk);
      }
      std::vector<int32_t> seen;
      sight.AppendChunks(seen);
      ASSERT_EQ(seen, chunks) << AttentionText(form) << ", window of the layer " << layer_window
                              << ", position " << p;
      for (int32_t chunk = 0; chunk <= p / 256 + 1; ++chunk) {
        EXPECT_EQ(sight.SeesChunk(chunk), std::find(seen.begin(), seen.end(), chunk) != seen.end());
      }
    }
  }
}

TEST(SparseAttentionMask, ForgetsChoicesOnlyBetweenSteps) {
  const AttentionForm form{.window = 1, .random = 600};
  SparseAttention attention(form);
  for (int step = 0; step < 3; ++step) {
    attention.Begin();
    attention.Prepare(step, 0, 64 * 4000 - 1);
    EXPECT_EQ(attention.SightOf(step, 0, 64 * 4000 - 1).chosen.size(), 600);
    EXPECT_EQ(attention.SightOf(step, 0, 0).chosen.size(), 0);
  }
}

}  // namespace
}  // namespace tandem::core
