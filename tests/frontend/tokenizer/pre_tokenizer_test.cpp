#include "frontend/tokenizer/pre_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "frontend/text/nfc.h"

namespace tandem::frontend {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::string> Split(std::string_view name, std::string_view text) {
  const auto pre_tokenizer = PreTokenizer::Create(name);
  EXPECT_TRUE(pre_tokenizer.ok()) << pre_tokenizer.status();
  const auto words = pre_tokenizer->Split(text);
  EXPECT_TRUE(words.ok()) << words.status();
  return {words->begin(), words->end()};
}

TEST(PreTokenizer, NamesAreUniqueAndAllCompile) {
  const std::vector<std::string_view> names = PreTokenizer::Names();
  EXPECT_EQ(std::adjacent_find(names.begin(), names.end()), names.end());
  const std::string text =
      "It's 12345 o'clock,\r\n\tHELLO wörld  \u4f60\u597d\u0e01\u0e33 x\u0301\u2003!! \n\n  end ";
  for (const std::string_view name : names) {
    std::string joined;
    for (const std::string& word : Split(name, text)) {
      EXPECT_FALSE(word.empty());
      joined += word;
    }
    EXPECT_EQ(joined, text) << name;
    EXPECT_THAT(Split(name, ""), ElementsAre());
  }
}

TEST(PreTokenizer, AnUnknownNameIsAnError) {
  const auto unknown = PreTokenizer::Create("no-such-thing");
  ASSERT_FALSE(unknown.ok());
  EXPECT_EQ(unknown.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(unknown.status().message()), HasSubstr("'no-such-thing'"));
  EXPECT_THAT(std::string(unknown.status().message()),
              HasSubstr("command-r, dbrx, deepseek-coder"));
}

TEST(PreTokenizer, SplitsAsItsPatternSays) {
  EXPECT_THAT(Split("gpt-2", "It's 123  ok!"), ElementsAre("It", "'s", " 123", " ", " ok", "!"));
  EXPECT_THAT(Split("smollm", "a 12"), ElementsAre("a", " ", "1", "2"));
  EXPECT_THAT(Split("llama-bpe", "IT'S 12345\n\n x"),
              ElementsAre("IT", "'S", " ", "123", "45", "\n\n", " x"));
  EXPECT_THAT(Split("qwen2", "(a) 12"), ElementsAre("(a", ")", " ", "1", "2"));
  EXPECT_THAT(Split("gpt-4o", "camelCase don't"), ElementsAre("camel", "Case", " don't"));
  EXPECT_THAT(Split("tekken", "HTTPServer"), ElementsAre("HTTPServer"));
  EXPECT_THAT(Split("falcon", "a,b 1234"), ElementsAre("a", ",", "b", " ", "123", "4"));
  EXPECT_THAT(Split("deepseek-v3", "12345\u3042x"), ElementsAre("123", "45", "\u3042", "x"));
  // U+180E is no white space (it was until Unicode 6.3).
  EXPECT_THAT(Split("gpt-2", "\u180e"), ElementsAre("\u180e"));
  EXPECT_THAT(Split("gpt-2", "a\u00a0\u2003"), ElementsAre("a", "\u00a0\u2003"));
}

TEST(PreTokenizer, LongRunsOfOneKindAreSplitOrRefusedQuickly) {
  const std::vector<std::string> units = {"a",      "A",      " ",       "\n",    "7",   "!",
                                          "\t",     "\u4f60", "e\u0301", "aA",    " \n", "'",
                                          "\u0301", "'l",     "\r\n ",   "\u01c5"};
  for (const std::string_view name : {"gpt-2", "llama-bpe", "qwen2", "tekken", "gpt-4o",
                                      "deepseek-llm", "deepseek-v3", "bailingmoe", "default"}) {
    for (const std::string& unit : units) {
      std::string text;
      while (text.size() < 100'000) text += unit;
      size_t bytes = 0;
      for (const std::string& word : Split(name, text)) bytes += word.size();
      EXPECT_EQ(bytes, text.size()) << name;
    }
  }
}

// Expected values are those of Python's unicodedata.normalize("NFC", ...).
TEST(Nfc, ComposesAndOrders) {
  EXPECT_EQ(NormalizeNfc("plain \u00e9"), "plain \u00e9");
  EXPECT_EQ(NormalizeNfc("e\u0301"), "\u00e9");
  EXPECT_EQ(NormalizeNfc("q\u0307\u0323"), "q\u0323\u0307");
  EXPECT_EQ(NormalizeNfc("\u212b"), "\u00c5");
  EXPECT_EQ(NormalizeNfc("\u1112\u1161\u11ab"), "\ud55c");
  EXPECT_EQ(NormalizeNfc("\u0958"), "\u0915\u093c");  // excluded from composition
  EXPECT_EQ(NormalizeNfc("\ufb01"), "\ufb01");        // compatibility only
  EXPECT_EQ(NormalizeNfc(""), "");
}

TEST(Nfc, LongRunsOfMarksAreNotQuadratic) {
  std::string marks = "a";
  std::string first = "a";
  std::string second;
  for (int i = 0; i < 50'000; ++i) {
    marks += "\u0315\u0316";  // classes 232 and 220
    first += "\u0316";
    second += "\u0315";
  }
  EXPECT_EQ(NormalizeNfc(marks), first + second);
}

}  // namespace
}  // namespace tandem::frontend
