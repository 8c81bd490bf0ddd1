#include "tests/support/tiny_tokenizers.h"

#include <cstdlib>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "fmt/format.h"
#include "frontend/text/byte_level.h"
#include "frontend/tokenizer/bpe_tokenizer.h"
#include "frontend/tokenizer/spm_tokenizer.h"

namespace tandem::testing {
namespace {

using frontend::TokenType;

/// A vocabulary in the making; owns its texts.
struct Builder {
  std::vector<std::string> tokens = {"<unk>", "<s>", "<|im_end|>", "<|im_start|>", "\n\n"};
  frontend::VocabularyParts parts;

  Builder() {
    parts.origin = "tiny";
    parts.types = {TokenType::kUnknown, TokenType::kControl, TokenType::kControl,
                   TokenType::kControl, TokenType::kUserDefined};
    parts.scores.resize(parts.types.size(), 0.0F);
    parts.bos = kTinyBos;
    parts.eos = kTinyEndOfTurn;
    parts.unknown = kTinyUnknown;
    parts.add_bos = true;
  }

  void Add(std::string token, TokenType type, float score = 0.0F) {
    tokens.push_back(std::move(token));
    parts.types.push_back(type);
    parts.scores.push_back(score);
  }

  frontend::Vocabulary Finish() {
    parts.tokens.assign(tokens.begin(), tokens.end());
    return Take(frontend::Vocabulary::Create(parts));
  }

  template <typename T>
  static T Take(absl::StatusOr<T> value) {
    if (value.ok()) return *std::move(value);
    std::cerr << value.status() << '\n';
    std::abort();
  }
};

}  // namespace

std::unique_ptr<frontend::Tokenizer> TinyBpe(std::string_view pre_tokenizer) {
  Builder builder;
  for (int byte = 0; byte < 256; ++byte) {
    builder.Add(frontend::ByteLevelSpelling(static_cast<uint8_t>(byte)), TokenType::kNormal);
  }
  const std::vector<std::string_view> merges = {
      "h e",  "l l",  "he ll", "hell o", "Ġ w", "e r",  "Ġ t", "Ġt he",
      "Ġw o", "r l",  "rl d",  "Ã ©",    "ð Ł", "ðŁ ĺ", "Ġ Ġ", "ĠĠ ĠĠ",
      "a b",  "ab c", "b c",   "< |",    "| >", "1 2",  "i m", "im _",
  };
  for (const std::string_view merge : merges) {
    const size_t space = merge.find(' ');
    builder.Add(std::string(merge.substr(0, space)) + std::string(merge.substr(space + 1)),
                TokenType::kNormal);
  }
  return Builder::Take(frontend::BpeTokenizer::Create(
      builder.Finish(), merges, Builder::Take(frontend::PreTokenizer::Create(pre_tokenizer))));
}

std::unique_ptr<frontend::Tokenizer> TinySpm(bool add_space_prefix) {
  Builder builder;
  for (int byte = 0; byte < 256; ++byte) {
    builder.Add(fmt::format("<0x{:02X}>", byte), TokenType::kByte);
  }
  for (const std::string_view letter :
       {"▁", "a", "b", "c", "h", "e", "l", "o", "w", "é", "<", "0"}) {
    builder.Add(std::string(letter), TokenType::kNormal, -100.0F);
  }
  float score = -1.0F;
  for (const std::string_view piece : {"he", "ll", "hell", "hello", "▁hello", "▁w", "▁▁", "abc"}) {
    builder.Add(std::string(piece), TokenType::kNormal, score);
    score -= 1.0F;
  }
  builder.Add("ab", TokenType::kUnused, score);
  return Builder::Take(frontend::SpmTokenizer::Create(builder.Finish(), add_space_prefix));
}

}  // namespace tandem::testing
