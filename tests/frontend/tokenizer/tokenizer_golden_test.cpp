// Held against `tokenizers`, `sentencepiece` and llama.cpp's own lists over real vocabularies; the
// scripts that wrote the lists lie beside them.

#include <gtest/gtest.h>

#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "frontend/tokenizer/detokenizer.h"
#include "frontend/tokenizer/tokenizer.h"
#include "nlohmann/json.hpp"
#include "sodium.h"
#include "tests/support/models.h"
#include "tests/support/read_file.h"

namespace tandem::frontend {
namespace {

using nlohmann::json;

json ReadGolden(const std::string& name) {
  const std::string path = std::string(TANDEM_SOURCE_DIR) + "/tests/golden/tokenizer/" + name;
  return json::parse(testing::ReadFile(path));
}

std::unique_ptr<Tokenizer> LoadOrNull(const std::string& file) {
  auto gguf = core::GgufFile::Open(tandem::testing::ModelPath(file));
  EXPECT_TRUE(gguf.ok()) << gguf.status();
  if (!gguf.ok()) return nullptr;
  auto tokenizer = LoadTokenizer(**gguf);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

std::string Base64(const std::string& encoded) {
  std::string bytes(encoded.size(), '\0');
  size_t length = 0;
  EXPECT_EQ(sodium_base642bin(reinterpret_cast<unsigned char*>(bytes.data()), bytes.size(),
                              encoded.data(), encoded.size(), nullptr, &length, nullptr,
                              sodium_base64_VARIANT_ORIGINAL),
            0);
  bytes.resize(length);
  return bytes;
}

std::string EntryText(const json& entry) {
  const std::string once =
      entry.contains("base64") ? Base64(entry["base64"]) : entry["text"].get<std::string>();
  std::string text;
  for (int64_t n = entry.value("repeat", 1); n > 0; --n) text += once;
  return text;
}

/// Ids as the golden files have them: in full, or count and hash where there are many.
json Short(const std::vector<int32_t>& ids) {
  if (ids.size() <= 200) return ids;
  uint64_t digest = 0xCBF29CE484222325U;
  for (const int32_t id : ids) {
    for (uint32_t shift = 0; shift < 32; shift += 8) {
      digest = (digest ^ (static_cast<uint32_t>(id) >> shift & 0xFFU)) * 0x100000001B3U;
    }
  }
  return {{"count", ids.size()}, {"fnv1a64", fmt::format("{:016x}", digest)}};
}

struct Case {
  const char* name;
  const char* file;
};

void PrintTo(const Case& value, std::ostream* out) { *out << value.name; }

std::string CaseName(const ::testing::TestParamInfo<Case>& info) {
  std::string name = info.param.name;
  for (char& c : name) {
    if (c == '-') c = '_';
  }
  return name;
}

class TokenizerGolden : public ::testing::TestWithParam<Case> {};

TEST_P(TokenizerGolden, EncodesHardStringsAsTheReferenceDoes) {
  const std::unique_ptr<Tokenizer> tokenizer = LoadOrNull(GetParam().file);
  ASSERT_NE(tokenizer, nullptr);
  const json entries = ReadGolden("strings.json");
  const json golden = ReadGolden(std::string(GetParam().name) + ".json");
  const json& expected = golden.at("encoded");
  ASSERT_EQ(entries.size(), expected.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    // SentencePiece itself takes no control tokens; with a space prefix there is no one rule.
    if (tokenizer->adds_leading_space() && entries[i].value("special", false)) continue;
    const auto ids =
        tokenizer->Encode(EntryText(entries[i]), {.special = entries[i].value("special", false)});
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(Short(*ids), expected[i]) << "entry " << i << ": " << entries[i].dump(-1, ' ', true);
  }
}

TEST_P(TokenizerGolden, DecodesAsTheReferenceDoes) {
  const std::unique_ptr<Tokenizer> tokenizer = LoadOrNull(GetParam().file);
  ASSERT_NE(tokenizer, nullptr);
  const json golden = ReadGolden(std::string(GetParam().name) + ".json");
  ASSERT_GE(golden.at("decoded").size(), 40U);
  for (const json& sample : golden.at("decoded")) {
    const auto ids = sample["ids"].get<std::vector<int32_t>>();
    const auto text = Decode(*tokenizer, ids, {.special = true});
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(*text, sample["text"].get<std::string>()) << fmt::format("{}", ids);
    Detokenizer stream(*tokenizer, {.special = true});
    std::string streamed;
    for (const int32_t id : ids) {
      streamed += stream.Push(id);
      EXPECT_EQ(ValidUtf8Prefix(streamed), streamed.size());
    }
    streamed += stream.Flush();
    EXPECT_EQ(streamed, *text);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Vocabularies, TokenizerGolden,
    ::testing::Values(Case{"smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"},
                      Case{"gemma3", "gemma-3-270m-q4_k_m.gguf"},
                      Case{"gpt-2", "vocabularies/ggml-vocab-gpt-2.gguf"},
                      Case{"starcoder", "vocabularies/ggml-vocab-starcoder.gguf"},
                      Case{"refact", "vocabularies/ggml-vocab-refact.gguf"},
                      Case{"mpt", "vocabularies/ggml-vocab-mpt.gguf"},
                      Case{"command-r", "vocabularies/ggml-vocab-command-r.gguf"},
                      Case{"falcon", "vocabularies/ggml-vocab-falcon.gguf"},
                      Case{"llama-bpe", "vocabularies/ggml-vocab-llama-bpe.gguf"},
                      Case{"qwen2", "vocabularies/ggml-vocab-qwen2.gguf"},
                      Case{"deepseek-llm", "vocabularies/ggml-vocab-deepseek-llm.gguf"},
                      Case{"deepseek-coder", "vocabularies/ggml-vocab-deepseek-coder.gguf"},
                      Case{"llama-spm", "vocabularies/ggml-vocab-llama-spm.gguf"}),
    CaseName);

// Vocabularies that keep every text: not normalized, and with tokens for all bytes.
class LosslessVocabulary : public ::testing::TestWithParam<Case> {};

TEST_P(LosslessVocabulary, DecodingGivesTheTextBack) {
  const std::unique_ptr<Tokenizer> tokenizer = LoadOrNull(GetParam().file);
  ASSERT_NE(tokenizer, nullptr);
  for (const json& entry : ReadGolden("strings.json")) {
    const std::string text = ReplaceInvalidUtf8(EntryText(entry));
    if (text.find("\u2581") != std::string::npos) continue;  // a space to SentencePiece
    const auto ids = tokenizer->Encode(text);
    ASSERT_TRUE(ids.ok()) << ids.status();
    const auto decoded = Decode(*tokenizer, *ids);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(*decoded, text);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Vocabularies, LosslessVocabulary,
    ::testing::Values(Case{"gemma3", "gemma-3-270m-q4_k_m.gguf"},
                      Case{"gpt-2", "vocabularies/ggml-vocab-gpt-2.gguf"},
                      Case{"llama-bpe", "vocabularies/ggml-vocab-llama-bpe.gguf"},
                      Case{"deepseek-llm", "vocabularies/ggml-vocab-deepseek-llm.gguf"},
                      Case{"llama-spm", "vocabularies/ggml-vocab-llama-spm.gguf"}),
    CaseName);

class LlamaCppLists : public ::testing::TestWithParam<Case> {};

TEST_P(LlamaCppLists, EncodesAsListed) {
  const std::unique_ptr<Tokenizer> tokenizer = LoadOrNull(GetParam().file);
  ASSERT_NE(tokenizer, nullptr);
  const std::string path = tandem::testing::ModelPath(GetParam().file);
  const std::string inputs = testing::ReadFile(path + ".inp");
  std::istringstream outputs(testing::ReadFile(path + ".out"));
  const std::string separator = "\n__ggml_vocab_test__\n";
  size_t count = 0;
  for (size_t at = 0, end = 0; (end = inputs.find(separator, at)) != std::string::npos;
       at = end + separator.size()) {
    std::string line;
    ASSERT_TRUE(std::getline(outputs, line));
    std::istringstream numbers(line);
    const std::vector<int32_t> expected{std::istream_iterator<int32_t>(numbers), {}};
    const std::string text = inputs.substr(at, end - at);
    const auto ids = tokenizer->Encode(text);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, expected) << "text " << count << ": " << text;
    ++count;
  }
  EXPECT_GE(count, 46U);
}

INSTANTIATE_TEST_SUITE_P(
    Vocabularies, LlamaCppLists,
    ::testing::Values(Case{"gpt-2", "vocabularies/ggml-vocab-gpt-2.gguf"},
                      Case{"starcoder", "vocabularies/ggml-vocab-starcoder.gguf"},
                      Case{"refact", "vocabularies/ggml-vocab-refact.gguf"},
                      Case{"mpt", "vocabularies/ggml-vocab-mpt.gguf"},
                      Case{"command-r", "vocabularies/ggml-vocab-command-r.gguf"},
                      Case{"falcon", "vocabularies/ggml-vocab-falcon.gguf"},
                      Case{"llama-bpe", "vocabularies/ggml-vocab-llama-bpe.gguf"},
                      Case{"qwen2", "vocabularies/ggml-vocab-qwen2.gguf"},
                      Case{"qwen35", "vocabularies/ggml-vocab-qwen35.gguf"},
                      Case{"deepseek-llm", "vocabularies/ggml-vocab-deepseek-llm.gguf"},
                      Case{"deepseek-coder", "vocabularies/ggml-vocab-deepseek-coder.gguf"},
                      Case{"llama-spm", "vocabularies/ggml-vocab-llama-spm.gguf"},
                      Case{"phi-3", "vocabularies/ggml-vocab-phi-3.gguf"}),
    CaseName);

}  // namespace
}  // namespace tandem::frontend
