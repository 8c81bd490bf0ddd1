#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "frontend/tokenizer/tokenizer.h"
#include "tests/support/gguf_writer.h"

namespace tandem::frontend {
namespace {

using tandem::testing::GgufWriter;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const GgufWriter& writer) {
  const std::vector<std::byte> bytes = writer.Finish();
  auto file = core::GgufFile::OpenBuffer(bytes, "tiny.gguf");
  EXPECT_TRUE(file.ok()) << file.status();
  return LoadTokenizer(**file);
}

std::string Error(const GgufWriter& writer) {
  const auto tokenizer = Load(writer);
  return tokenizer.ok() ? "OK" : std::string(tokenizer.status().message());
}

void AddTokens(GgufWriter& writer, std::vector<std::string> tokens) {
  writer.AddStrings("tokenizer.ggml.tokens", tokens);
}

GgufWriter Bpe(std::string_view pre) {
  GgufWriter writer;
  writer.AddString("tokenizer.ggml.model", "gpt2");
  writer.AddString("tokenizer.ggml.pre", pre);
  return writer;
}

void AddMerges(GgufWriter& writer, std::vector<std::string> merges) {
  writer.AddStrings("tokenizer.ggml.merges", merges);
}

TEST(LoadTokenizer, ReadsAByteLevelVocabulary) {
  GgufWriter writer = Bpe("gpt-2");
  AddTokens(writer, {"a", "b", "ab", "<|endoftext|>", "</s>"});
  AddMerges(writer, {"a b"});
  writer.AddU32("tokenizer.ggml.eos_token_id", 4);
  const auto tokenizer = Load(writer);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(*(*tokenizer)->Encode("abb"), ElementsAre(2, 1));
  // Without types in the file, the name alone makes it a control token.
  EXPECT_EQ((*tokenizer)->vocabulary().type(3), TokenType::kControl);
  EXPECT_THAT((*tokenizer)->vocabulary().end_of_generation(), ElementsAre(3, 4));
  EXPECT_FALSE((*tokenizer)->vocabulary().add_bos());
}

TEST(LoadTokenizer, KeysThatWouldChangeTheTokensAreRefusedByName) {
  const auto with = [](const std::function<void(GgufWriter&)>& more) {
    GgufWriter writer = Bpe("gpt-2");
    AddTokens(writer, {"a", "b", "ab"});
    AddMerges(writer, {"a b"});
    more(writer);
    return Error(writer);
  };
  for (const char* key : {"tokenizer.ggml.add_eos_token", "tokenizer.ggml.add_sep_token",
                          "tokenizer.ggml.normalizer.lowercase"}) {
    EXPECT_THAT(with([&](GgufWriter& writer) { writer.AddBool(key, true); }),
                HasSubstr(std::string("key '") + key + "' is"));
    EXPECT_EQ(with([&](GgufWriter& writer) { writer.AddBool(key, false); }), "OK");
  }
  EXPECT_THAT(
      with([](GgufWriter& writer) { writer.AddString("tokenizer.ggml.normalizer", "NFKC"); }),
      HasSubstr("key 'tokenizer.ggml.normalizer' is"));
  EXPECT_EQ(with([](GgufWriter& writer) { writer.AddU32("tokenizer.ggml.padding_token_id", 2); }),
            "OK");
}

TEST(LoadTokenizer, StartTokenByPreTokenizerWhereTheFileDoesNotSay) {
  GgufWriter writer = Bpe("llama-bpe");
  AddTokens(writer, {"a", "<|begin_of_text|>"});
  AddMerges(writer, {});
  writer.AddU32("tokenizer.ggml.bos_token_id", 1);
  const auto wanted = Load(writer);
  ASSERT_TRUE(wanted.ok()) << wanted.status();
  EXPECT_TRUE((*wanted)->vocabulary().add_bos());
  writer.AddBool("tokenizer.ggml.add_bos_token", false);
  const auto refused = Load(writer);
  ASSERT_TRUE(refused.ok()) << refused.status();
  EXPECT_FALSE((*refused)->vocabulary().add_bos());
}

TEST(LoadTokenizer, UnknownNamesAreErrorsThatSayThem) {
  EXPECT_THAT(Error(Bpe("kimi-k2")), AllOf(HasSubstr("tiny.gguf"), HasSubstr("'kimi-k2'"),
                                           HasSubstr("smollm"), HasSubstr("qwen2")));
  GgufWriter writer;
  writer.AddString("tokenizer.ggml.model", "bert");
  EXPECT_THAT(Error(writer), AllOf(HasSubstr("tiny.gguf"), HasSubstr("'bert'"), HasSubstr("gpt2")));
  EXPECT_THAT(Error(GgufWriter()), HasSubstr("tokenizer.ggml.model"));
}

TEST(LoadTokenizer, MalformedVocabulariesAreErrors) {
  struct Case {
    std::function<void(GgufWriter&)> spoil;
    std::string expected;
  };
  const std::vector<Case> cases = {
      {[](GgufWriter& w) { AddMerges(w, {"ab"}); }, "merge 0 is 'ab'"},
      {[](GgufWriter& w) { AddMerges(w, {""}); }, "merge 0 is ''"},
      {[](GgufWriter& w) { AddMerges(w, {"a c"}); }, "needs a token 'c'"},
      {[](GgufWriter& w) { AddMerges(w, {"b a"}); }, "needs a token 'ba'"},
      {[](GgufWriter&) {}, "tokenizer.ggml.merges"},
      {[](GgufWriter& w) { w.AddU32("tokenizer.ggml.bos_token_id", 3); }, "start token 3"},
      {[](GgufWriter& w) { w.AddU32("tokenizer.ggml.eos_token_id", 0xFFFFFFFFU); },
       "tokenizer.ggml.eos_token_id"},
      {[](GgufWriter& w) { w.AddString("tokenizer.ggml.bos_token_id", "x"); },
       "tokenizer.ggml.bos_token_id"},
      {[](GgufWriter& w) {
         w.AddInts("tokenizer.ggml.token_type", std::vector<int32_t>{1, 1});
       },
       "2 token types for 3 tokens"},
      {[](GgufWriter& w) {
         w.AddInts("tokenizer.ggml.token_type", std::vector<int32_t>{1, 1, 9});
       },
       "token 2 is 9"},
      {[](GgufWriter& w) { w.AddFloats("tokenizer.ggml.scores", std::vector<float>{1}); },
       "1 token scores for 3 tokens"},
  };
  for (const Case& c : cases) {
    GgufWriter writer = Bpe("gpt-2");
    AddTokens(writer, {"a", "b", "ab"});
    c.spoil(writer);
    EXPECT_THAT(Error(writer), AllOf(HasSubstr("tiny.gguf"), HasSubstr(c.expected)));
  }
  GgufWriter empty = Bpe("gpt-2");
  AddTokens(empty, {});
  EXPECT_THAT(Error(empty), HasSubstr("0 tokens"));
}

TEST(LoadTokenizer, SentencePieceNeedsScoresAndAWayToSayEveryByte) {
  GgufWriter writer;
  writer.AddString("tokenizer.ggml.model", "llama");
  AddTokens(writer, {"<unk>", "a", "▁"});
  EXPECT_THAT(Error(writer), HasSubstr("tokenizer.ggml.scores"));
  writer.AddFloats("tokenizer.ggml.scores", std::vector<float>{0, -1, -2});
  EXPECT_THAT(Error(writer), HasSubstr("<0x00>"));
  writer.AddU32("tokenizer.ggml.unknown_token_id", 0);
  const auto tokenizer = Load(writer);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  // One unknown token for a character of two bytes.
  EXPECT_THAT(*(*tokenizer)->Encode("aé"), ElementsAre(2, 1, 0));
}

}  // namespace
}  // namespace tandem::frontend
