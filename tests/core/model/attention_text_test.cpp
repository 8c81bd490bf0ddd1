#include "core/model/attention_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace tandem::core {
namespace {

using ::testing::HasSubstr;

std::string ErrorOf(const std::string& text) {
  const auto form = ParseAttentionForm(text);
  EXPECT_FALSE(form.ok()) << text;
  return form.ok() ? "" : Message(form.status());
}

TEST(SparseAttentionText, IsReadFromItsText) {
  EXPECT_EQ(*ParseAttentionForm("dense"), AttentionForm{});
  EXPECT_EQ(*ParseAttentionForm("sparse:window=7"), (AttentionForm{.window = 7}));
  EXPECT_EQ(*ParseAttentionForm("sparse:window=4096,global=4,random=8,seed=18446744073709551615"),
            (AttentionForm{.window = 4096, .global = 4, .random = 8, .seed = ~uint64_t{0}}));
  EXPECT_EQ(*ParseAttentionForm("sparse:seed=3,random=1,window=2147483647"),
            (AttentionForm{.window = 2147483647, .random = 1, .seed = 3}));
  // Nobody asks for a choice, so its seed makes no other form.
  EXPECT_EQ(*ParseAttentionForm("sparse:window=7,seed=5"), (AttentionForm{.window = 7}));
}

TEST(SparseAttentionText, SaysWhereATextIsWrongAndWhatIsRight) {
  const std::string grammar(kAttentionGrammar);
  const std::vector<std::pair<std::string, std::string>> wrong = {
      {"", "at character 1 (the end): expected dense, sparse: or infini:"},
      {"dense ", "at character 1 (\"dense \"): expected dense, sparse: or infini:"},
      {"Sparse:window=1",
       "at character 1 (\"Sparse:window=1\"): expected dense, sparse: or infini:"},
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
       "at character 24 (\"99999999999999999999999\"): random is 0 to 2147483647"},
      {"infini:", "at character 8 (the end): expected segment, gate or update"},
      {"infini:gate=1", "at character 14 (the end): segment=N is missing"},
      {"infini:segment=0", "at character 16 (\"0\"): segment is 1 to 2147483647"},
      {"infini:segment=100", "at character 16 (\"100\"): segment is a multiple of 64"},
      {"infini:segment=64,gate=x", "at character 24 (\"x\"): expected the number of gate"},
      {"infini:segment=64,gate=inf", "at character 24 (\"inf\"): expected the number of gate"},
      {"infini:segment=64,gate=1e99", "at character 24 (\"1e99\"): expected the number of gate"},
      {"infini:segment=64,update=Delta", "at character 26 (\"Delta\"): update is delta or linear"},
      {"infini:segment=64,segment=64", "at character 19 (\"segment=64\"): segment is there twice"},
      {"infini:segment=64,window=1", "at character 19 (\"window=1\"): expected segment, gate or"}};
  for (const auto& [text, error] : wrong) {
    EXPECT_THAT(ErrorOf(text), HasSubstr(error)) << text;
    EXPECT_THAT(ErrorOf(text), HasSubstr(grammar)) << text;
  }
}

TEST(SparseAttentionText, ItsTextMakesItAgain) {
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

TEST(SparseAttentionText, AnyTextIsRefusedOrMeansAForm) {
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

TEST(InfiniAttentionText, IsReadFromItsTextAndItsTextMakesItAgain) {
  EXPECT_EQ(*ParseAttentionForm("infini:segment=64"), (AttentionForm{.segment = 64}));
  EXPECT_EQ(
      *ParseAttentionForm("infini:update=linear,gate=-1,segment=128"),
      (AttentionForm{.segment = 128, .update = AttentionForm::Update::kLinear, .gate = -1.0F}));
  EXPECT_EQ(*ParseAttentionForm("infini:segment=64,gate=0,update=delta"),
            (AttentionForm{.segment = 64, .gate = 0.0F}));
  EXPECT_EQ(AttentionText(*ParseAttentionForm("infini:gate=-0,segment=64")),
            "infini:segment=64,gate=0");
  std::mt19937_64 random(2);
  for (int i = 0; i < 2000; ++i) {
    AttentionForm form{.segment = static_cast<int>(64 * (1 + random() % 33554431))};
    if (random() % 2 == 0) form.update = AttentionForm::Update::kLinear;
    if (random() % 2 == 0) {
      form.gate = static_cast<float>(std::ldexp(static_cast<double>(random()), -64)) * 20 - 10;
    }
    const auto read = ParseAttentionForm(AttentionText(form));
    ASSERT_TRUE(read.ok()) << AttentionText(form);
    EXPECT_EQ(*read, form) << AttentionText(form);
  }
}

}  // namespace
}  // namespace tandem::core
