#include "core/model/attention_form.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "core/base/philox.h"

namespace tandem::core {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string ErrorOf(const std::string& text) {
  const auto form = ParseAttentionForm(text);
  EXPECT_FALSE(form.ok()) << text;
  return form.ok() ? "" : Message(form.status());
}

TEST(SparseAttentionForm, IsReadFromItsText) {
  EXPECT_EQ(*ParseAttentionForm("dense"), AttentionForm{});
  EXPECT_EQ(*ParseAttentionForm("sparse:window=7"), (AttentionForm{.window = 7}));
  EXPECT_EQ(*ParseAttentionForm("sparse:window=4096,global=4,random=8,seed=18446744073709551615"),
            (AttentionForm{.window = 4096, .global = 4, .random = 8, .seed = ~uint64_t{0}}));
  EXPECT_EQ(*ParseAttentionForm("sparse:seed=3,random=1,window=2147483647"),
            (AttentionForm{.window = 2147483647, .random = 1, .seed = 3}));
  // Nobody asks for a choice, so its seed makes no other form.
  EXPECT_EQ(*ParseAttentionForm("sparse:window=7,seed=5"), (AttentionForm{.window = 7}));
}

TEST(SparseAttentionForm, SaysWhereATextIsWrongAndWhatIsRight) {
  const std::string grammar = "dense or sparse:window=W[,global=G][,random=R][,seed=S]";
  const std::vector<std::pair<std::string, std::string>> wrong = {
      {"", "at character 1 (the end): expected dense or sparse:"},
      {"dense ", "at character 1 (\"dense \"): expected dense or sparse:"},
      {"Sparse:window=1", "at character 1 (\"Sparse:window=1\"): expected dense or sparse:"},
      {"sparse:", "at character 8 (the end): expected window, global, random or seed"},
      {"sparse:global=4", "at character 16 (the end): window=W is missing"},
      {"sparse:window", "at character 14 (the end): expected ="},
      {"sparse:window,global=1", "at character 14 (\",global=1\"): expected ="},
      {"sparse:window=", "at character 15 (the end): expected the number of window"},
      {"sparse:window=0", "at character 15 (\"0\"): window is 1 to 2147483647"},
      {"sparse:window=2147483648", "at character 15 (\"2147483648\"): window is 1 to"},
      {"sparse:window=-1", "at character 15 (\"-1\"): expected the number of window"},
      {"sparse:window=+1", "at character 15 (\"+1\"): expected the number of window"},
      {"sparse:window=1 ", "at character 16 (\" \"): expected a comma or the end"},
      {"sparse:window=1.5", "at character 16 (\".5\"): expected a comma or the end"},
      {"sparse:window=1,", "at character 17 (the end): expected window, global, random or seed"},
      {"sparse:window=1,gobal=2", "at character 17 (\"gobal=2\"): expected window, global"},
      {"sparse:window=1,window=1", "at character 17 (\"window=1\"): window is there twice"},
      {"sparse:window=1,seed=18446744073709551616",
       "at character 22 (\"18446744073709551616\"): seed is 0 to 18446744073709551615"},
      {"sparse:window=1,random=99999999999999999999999",
       "at character 24 (\"99999999999999999999999\"): random is 0 to 2147483647"}};
  for (const auto& [text, error] : wrong) {
    EXPECT_THAT(ErrorOf(text), HasSubstr(error)) << text;
    EXPECT_THAT(ErrorOf(text), HasSubstr(grammar)) << text;
  }
}

TEST(SparseAttentionForm, ItsTextMakesItAgain) {
  std::mt19937_64 random(1);
  const auto some = [&](uint64_t most) {
    const uint64_t value = random() >> (random() % 64);
    return value > most ? most : value;
  };
  for (int i = 0; i < 2000; ++i) {
    AttentionForm form{.window = static_cast<int>(1 + some(2147483646)),
                       .global = static_cast<int>(some(2147483647)),
                       .random = static_cast<int>(some(2147483647))};
    if (form.random > 0) form.seed = some(~uint64_t{0});
    const auto read = ParseAttentionForm(AttentionText(form));
    ASSERT_TRUE(read.ok()) << AttentionText(form);
    EXPECT_EQ(*read, form);
    EXPECT_EQ(AttentionText(*read), AttentionText(form));
  }
  EXPECT_EQ(AttentionText({}), "dense");
  EXPECT_EQ(AttentionText({.window = 9, .global = 0, .random = 2}), "sparse:window=9,random=2");
}

TEST(SparseAttentionForm, AnyTextIsRefusedOrMeansAForm) {
  const std::string alphabet = "sparse:window=,globalrandomseed0123456789-+ \t\"=,,";
  std::mt19937 random(2);
  int good = 0;
  for (int i = 0; i < 100000; ++i) {
    std::string text = "sparse:window=12,global=3,random=4,seed=5";
    const auto edits = static_cast<int>(random() % 4);
    for (int edit = 0; edit < edits; ++edit) {
      const size_t at = random() % text.size();
      switch (random() % 3) {
        case 0:
          text[at] = alphabet[random() % alphabet.size()];
          break;
        case 1:
          text.insert(at, 1, alphabet[random() % alphabet.size()]);
          break;
        default:
          text.erase(at, 1 + random() % 4);
      }
      if (text.empty()) break;
    }
    const auto form = ParseAttentionForm(text);
    if (!form.ok()) {
      EXPECT_THAT(Message(form.status()), HasSubstr(std::string(kAttentionGrammar)));
      continue;
    }
    ++good;
    EXPECT_EQ(*ParseAttentionForm(AttentionText(*form)), *form);
  }
  EXPECT_GT(good, 1000);
}

TEST(SparseAttentionForm, PhiloxHasTheKnownAnswer) {
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

TEST(SparseAttentionForm, ChoosesTheBlocksOfTheDefinition) {
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

TEST(SparseAttentionForm, SeesTheKeysOfTheDefinition) {
  std::mt19937 random(4);
  for (int i = 0; i < 60; ++i) {
    const AttentionForm form = RandomForm(random, 1500);
    const int layer = static_cast<int>(random() % 4);
    const int layer_window = random() % 2 == 0 ? 0 : 1 + static_cast<int>(random() % 1000);
    BlockChoices choices(form);
    const int64_t positions = 1 + random() % 1500;
    choices.Begin();
    choices.Prepare(layer, 0, positions - 1);
    for (int64_t p = random() % 7; p < positions; p += 1 + random() % 40) {
      const SparseSight sight =
          SparseSight::Of(form, layer_window, p, choices.Of(layer, p / kPageTokens));
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

TEST(SparseAttentionForm, ForgetsChoicesOnlyBetweenSteps) {
  const AttentionForm form{.window = 1, .random = 600};
  BlockChoices choices(form);
  for (int step = 0; step < 3; ++step) {
    choices.Begin();
    choices.Prepare(step, 0, 64 * 4000 - 1);
    EXPECT_EQ(choices.Of(step, 3999).size(), 600);
    EXPECT_EQ(choices.Of(step, 0).size(), 0);
  }
}

}  // namespace
}  // namespace tandem::core
