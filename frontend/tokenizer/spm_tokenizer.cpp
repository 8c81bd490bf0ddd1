#include "frontend/tokenizer/spm_tokenizer.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "fmt/format.h"
#include "frontend/text/utf8.h"
#include "frontend/tokenizer/pair_merger.h"

namespace tandem::frontend {
namespace {

constexpr std::string_view kSpace = "\xE2\x96\x81";  // U+2581

std::string EscapeSpaces(std::string_view text) {
  std::string escaped;
  escaped.reserve(text.size() + text.size() / 2);
  for (const char c : text) {
    if (c == ' ') {
      escaped += kSpace;
    } else {
      escaped += c;
    }
  }
  return escaped;
}

std::string UnescapeSpaces(std::string_view text) {
  std::string plain;
  plain.reserve(text.size());
  while (!text.empty()) {
    const size_t length = text.starts_with(kSpace) ? kSpace.size() : size_t{1};
    plain += length == 1 ? text[0] : ' ';
    text.remove_prefix(length);
  }
  return plain;
}

/// The bytes of a character.
uint32_t CharacterKey(std::string_view character) {
  uint32_t key = 0;
  for (const char byte : character) key = key << 8 | static_cast<uint8_t>(byte);
  return key;
}

uint64_t JointKey(uint32_t left, uint32_t right) { return uint64_t{left} << 32 | right; }

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> SpmTokenizer::Create(Vocabulary vocabulary,
                                                                bool add_space_prefix) {
  // Files spell runs of spaces with either character; in text both mean a space.
  TokenSplitter splitter(vocabulary,
                         [&](int32_t id) { return UnescapeSpaces(vocabulary.text(id)); });
  auto tokenizer = std::unique_ptr<SpmTokenizer>(
      new SpmTokenizer(std::move(vocabulary), std::move(splitter), add_space_prefix));
  TANDEM_RETURN_IF_ERROR(tokenizer->FindByteTokens());
  const Vocabulary& tokens = tokenizer->vocabulary();
  for (int32_t id = 0; id < tokens.size(); ++id) {
    tokenizer->longest_piece_ = std::max(tokenizer->longest_piece_, tokens.text(id).size());
  }
  tokenizer->FindJoints();
  return tokenizer;
}

void SpmTokenizer::FindJoints() {
  for (int32_t id = 0; id < vocabulary().size(); ++id) {
    const std::string_view piece = vocabulary().text(id);
    if (piece.empty() || FindPiece(piece) == MergeSymbol::kNone) continue;
    size_t at = ReadUtf8(piece).length;
    if (at == piece.size()) continue;
    // What an unused token was made of may depend on the text before it.
    merges_unused_ = merges_unused_ || vocabulary().type(id) == TokenType::kUnused;
    for (uint32_t left = CharacterKey(piece.substr(0, at)); at < piece.size();) {
      const size_t length = ReadUtf8(piece.substr(at)).length;
      const uint32_t right = CharacterKey(piece.substr(at, length));
      joints_.insert(JointKey(left, right));
      left = right;
      at += length;
    }
  }
}

size_t SpmTokenizer::EndOfStretch(std::string_view text, size_t begin) const {
  if (merges_unused_) return text.size();
  size_t at = begin + ReadUtf8(text.substr(begin)).length;
  for (uint32_t left = CharacterKey(text.substr(begin, at - begin)); at < text.size();) {
    const size_t length = ReadUtf8(text.substr(at)).length;
    const uint32_t right = CharacterKey(text.substr(at, length));
    if (!joints_.contains(JointKey(left, right))) return at;
    left = right;
    at += length;
  }
  return at;
}

absl::Status SpmTokenizer::FindByteTokens() {
  const Vocabulary& tokens = vocabulary();
  for (size_t byte = 0; byte < byte_tokens_.size(); ++byte) {
    std::optional<int32_t> id = tokens.Find(fmt::format("<0x{:02X}>", byte));
    if (!id.has_value() || tokens.type(*id) != TokenType::kByte) id = tokens.unknown();
    if (!id.has_value()) {
      return InvalidArgument(
          "{}: no byte token <0x{:02X}> and no unknown token: there is text that this vocabulary "
          "cannot say",
          tokens.origin(), byte);
    }
    byte_tokens_[byte] = *id;
  }
  return absl::OkStatus();
}

std::string SpmTokenizer::PrepareText(std::string_view text) const {
  return UnescapeSpaces(ReplaceInvalidUtf8(text));
}

int32_t SpmTokenizer::FindPiece(std::string_view piece) const {
  if (piece.size() > longest_piece_) return MergeSymbol::kNone;
  const std::optional<int32_t> id = vocabulary().Find(piece);
  if (!id.has_value()) return MergeSymbol::kNone;
  switch (vocabulary().type(*id)) {
    case TokenType::kNormal:
    case TokenType::kUserDefined:
    case TokenType::kUnused:
      return *id;
    case TokenType::kUnknown:
    case TokenType::kControl:
    case TokenType::kByte:
      break;
  }
  return MergeSymbol::kNone;
}

absl::Status SpmTokenizer::EncodeText(std::string_view text, std::vector<int32_t>& ids) const {
  std::string escaped = add_space_prefix_ ? std::string(kSpace) : std::string();
  escaped += EscapeSpaces(text);
  const std::string_view whole = escaped;
  if (whole.size() > std::numeric_limits<uint32_t>::max()) {
    return ResourceExhausted("a text of {} bytes is too long", text.size());
  }

  PairMerger merger;
  Halves halves;
  const auto try_merge = [&](const MergeSymbol& left,
                             const MergeSymbol& right) -> std::optional<PairMerger::Merge> {
    const std::string_view piece = whole.substr(left.begin, left.length + right.length);
    const int32_t token = FindPiece(piece);
    if (token == MergeSymbol::kNone) return std::nullopt;
    if (vocabulary().type(token) == TokenType::kUnused) halves[piece] = left.length;
    return PairMerger::Merge{-static_cast<double>(vocabulary().score(token)), token};
  };
  for (size_t at = 0; at < whole.size();) {
    merger.Clear();
    for (const size_t end = EndOfStretch(whole, at); at < end;) {
      const size_t length = ReadUtf8(whole.substr(at)).length;
      merger.Add(FindPiece(whole.substr(at, length)), static_cast<uint32_t>(at),
                 static_cast<uint32_t>(length));
      at += length;
    }
    merger.Run(try_merge);
    merger.ForEach([&](const MergeSymbol& symbol) {
      AppendPiece(whole.substr(symbol.begin, symbol.length), halves, ids);
    });
  }
  return absl::OkStatus();
}

void SpmTokenizer::AppendPiece(std::string_view piece, const Halves& halves,
                               std::vector<int32_t>& ids) const {
  const int32_t token = FindPiece(piece);
  if (token == MergeSymbol::kNone) {
    for (const char byte : piece) {
      const int32_t id = byte_tokens_[static_cast<uint8_t>(byte)];
      ids.push_back(id);
      if (vocabulary().type(id) != TokenType::kByte) break;  // one unknown token a character
    }
    return;
  }
  const auto half =
      vocabulary().type(token) == TokenType::kUnused ? halves.find(piece) : halves.end();
  if (half == halves.end()) {
    ids.push_back(token);
    return;
  }
  AppendPiece(piece.substr(0, half->second), halves, ids);
  AppendPiece(piece.substr(half->second), halves, ids);
}

std::string SpmTokenizer::TokenBytes(int32_t id) const {
  const std::string_view text = vocabulary().text(id);
  if (vocabulary().type(id) == TokenType::kByte) {
    const auto byte = std::find(byte_tokens_.begin(), byte_tokens_.end(), id);
    if (byte != byte_tokens_.end()) {
      return std::string(1, static_cast<char>(byte - byte_tokens_.begin()));
    }
  }
  if (vocabulary().IsControl(id)) return std::string(text);
  return UnescapeSpaces(text);
}

}  // namespace tandem::frontend
