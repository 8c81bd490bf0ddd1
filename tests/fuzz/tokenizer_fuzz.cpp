// Any bytes through tiny vocabularies: encoding and decoding must give the text back, in whole and
// as a stream, and text that no template wrote must never hold a control token.

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "frontend/text/utf8.h"
#include "frontend/tokenizer/detokenizer.h"
#include "frontend/tokenizer/tokenizer.h"
#include "tests/support/tiny_tokenizers.h"

namespace {

using tandem::frontend::Detokenizer;
using tandem::frontend::TextSegment;
using tandem::frontend::Tokenizer;

void Require(bool condition) {
  if (!condition) std::abort();
}

std::string Replaced(std::string text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
  return text;
}

void RoundTrip(const Tokenizer& tokenizer, std::string_view bytes, bool spaces_only) {
  std::string expected = tandem::frontend::ReplaceInvalidUtf8(bytes);
  if (spaces_only) expected = Replaced(expected, "\u2581", " ");
  const auto ids = tokenizer.Encode(bytes);
  Require(ids.ok());
  for (const int32_t id : *ids) Require(!tokenizer.vocabulary().IsControl(id));
  Detokenizer stream(tokenizer);
  std::string text;
  for (const int32_t id : *ids) {
    text += stream.Push(id);
    Require(tandem::frontend::ValidUtf8Prefix(text) == text.size());
  }
  text += stream.Flush();
  // A space put before text behind a user-defined token stays in the text.
  if (!tokenizer.adds_leading_space() || text.find("\n\n") == std::string::npos) {
    Require(text == expected);
  }
}

/// The first byte of each chunk of eight says whether a template wrote it.
void Segments(const Tokenizer& tokenizer, std::string_view bytes) {
  std::vector<TextSegment> segments;
  size_t written = 0;  // control tokens that the template may have written
  for (size_t at = 0; at < bytes.size(); at += 8) {
    const bool from_template = (static_cast<uint8_t>(bytes[at]) & 1U) != 0;
    segments.push_back({std::string(bytes.substr(at + 1, 7)), from_template});
    if (from_template) segments.push_back({"<|im_start|>", true});
    written += from_template ? 1 : 0;
    segments.push_back({"<|im_start|>", false});
  }
  const auto ids = tokenizer.EncodeSegments(segments);
  Require(ids.ok());
  size_t found = 0;
  for (const int32_t id : *ids) found += id == tandem::testing::kTinyStartOfTurn ? 1 : 0;
  // Text of 7 bytes cannot spell the 12 of a control token; it can only spoil one.
  Require(found == written);
  Require(Decode(tokenizer, *ids, {.special = true}).ok());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto tokenizers = [] {
    std::vector<std::unique_ptr<Tokenizer>> all;
    for (const char* name : {"gpt-2", "smollm", "llama-bpe", "gpt-4o", "deepseek-llm"}) {
      all.push_back(tandem::testing::TinyBpe(name));
    }
    all.push_back(tandem::testing::TinySpm(false));
    all.push_back(tandem::testing::TinySpm(true));
    return all;
  }();
  if (size == 0) return 0;
  const size_t which = data[0] % tokenizers.size();
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  RoundTrip(*tokenizers[which], bytes, which >= 5);
  Segments(*tokenizers[which], bytes);
  return 0;
}
