#include "frontend/tokenizer/bpe_tokenizer.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "core/formats/gguf.h"
#include "frontend/text/byte_level.h"
#include "frontend/text/nfc.h"
#include "frontend/tokenizer/pair_merger.h"

namespace tandem::frontend {
namespace {

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32U | static_cast<uint32_t>(right);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> BpeTokenizer::Create(
    Vocabulary vocabulary, std::span<const std::string_view> merges, PreTokenizer pre_tokenizer) {
  TokenSplitter splitter(vocabulary, [&](int32_t id) { return std::string(vocabulary.text(id)); });
  auto tokenizer = std::unique_ptr<BpeTokenizer>(
      new BpeTokenizer(std::move(vocabulary), std::move(splitter), std::move(pre_tokenizer)));
  TANDEM_RETURN_IF_ERROR(tokenizer->ReadMerges(merges));
  if (tokenizer->pre_tokenizer_.entry().takes_whole_words) tokenizer->IndexWords();
  return tokenizer;
}

absl::Status BpeTokenizer::ReadMerges(std::span<const std::string_view> merges) {
  const Vocabulary& tokens = vocabulary();
  for (size_t byte = 0; byte < byte_tokens_.size(); ++byte) {
    const std::optional<int32_t> id = tokens.Find(ByteLevelSpelling(static_cast<uint8_t>(byte)));
    byte_tokens_[byte] = id.has_value() && !tokens.IsControl(*id) ? *id : MergeSymbol::kNone;
  }
  merges_.reserve(merges.size());
  std::string joined;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const std::string_view merge = merges[rank];
    const size_t space = merge.find(' ', 1);
    if (space == std::string_view::npos) {
      return InvalidArgument("{}: merge {} is '{}', expected two tokens with a space between",
                             tokens.origin(), rank, core::PrintableText(merge));
    }
    const std::string_view left = merge.substr(0, space);
    const std::string_view right = merge.substr(space + 1);
    joined.assign(left);
    joined += right;
    std::array<int32_t, 3> ids{};
    const std::array<std::string_view, 3> texts = {left, right, joined};
    for (size_t i = 0; i < texts.size(); ++i) {
      const std::optional<int32_t> id = tokens.Find(texts[i]);
      if (!id.has_value()) {
        return InvalidArgument("{}: merge {} ('{}') needs a token '{}', which is not there",
                               tokens.origin(), rank, core::PrintableText(merge),
                               core::PrintableText(texts[i]));
      }
      ids[i] = *id;
    }
    if (tokens.IsControl(ids[2])) continue;
    merges_.try_emplace(PairKey(ids[0], ids[1]), Merge{static_cast<int32_t>(rank), ids[2]});
  }
  return absl::OkStatus();
}

void BpeTokenizer::IndexWords() {
  std::vector<std::pair<int32_t, size_t>> lengths;  // (token, bytes)
  for (int32_t id = 0; id < vocabulary().size(); ++id) {
    if (vocabulary().type(id) != TokenType::kNormal) continue;
    if (const std::optional<std::string> bytes = ByteLevelBytes(vocabulary().text(id))) {
      word_bytes_ += *bytes;
      lengths.emplace_back(id, bytes->size());
    }
  }
  words_.reserve(lengths.size());
  std::string_view rest = word_bytes_;
  for (const auto& [id, length] : lengths) {
    words_.try_emplace(rest.substr(0, length), id);
    rest.remove_prefix(length);
  }
}

std::string BpeTokenizer::TokenBytes(int32_t id) const {
  const std::string_view text = vocabulary().text(id);
  if (vocabulary().type(id) == TokenType::kNormal || vocabulary().type(id) == TokenType::kUnused) {
    if (std::optional<std::string> bytes = ByteLevelBytes(text)) return *std::move(bytes);
  }
  return std::string(text);
}

size_t BpeTokenizer::LeastBytes(std::string_view text) const {
  const auto has_token = [&](char byte) {
    return byte_tokens_[static_cast<uint8_t>(byte)] != MergeSymbol::kNone;
  };
  const auto kept = static_cast<size_t>(std::count_if(text.begin(), text.end(), has_token));
  if (!pre_tokenizer_.entry().normalizes) return kept;
  // At most three bytes become one: the letters of a Hangul syllable, say.
  constexpr size_t kNfc = 3;
  return kept == text.size() ? kept / kNfc : 0;
}

absl::Status BpeTokenizer::EncodeText(std::string_view text, std::vector<int32_t>& ids) const {
  const PreTokenizerEntry& rules = pre_tokenizer_.entry();
  std::string normal;
  if (rules.normalizes) {
    normal = NormalizeNfc(text);
    text = normal;
  }
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string_view> words, pre_tokenizer_.Split(text));
  PairMerger merger;
  for (const std::string_view word : words) {
    if (rules.takes_whole_words) {
      if (const auto found = words_.find(word); found != words_.end()) {
        ids.push_back(found->second);
        continue;
      }
    }
    merger.Clear();
    for (uint32_t i = 0; i < word.size(); ++i) {
      const int32_t token = byte_tokens_[static_cast<uint8_t>(word[i])];
      if (token != MergeSymbol::kNone) merger.Add(token, i, 1);
    }
    merger.Run(
        [&](const MergeSymbol& left, const MergeSymbol& right) -> std::optional<PairMerger::Merge> {
          const auto found = merges_.find(PairKey(left.token, right.token));
          if (found == merges_.end()) return std::nullopt;
          return PairMerger::Merge{static_cast<double>(found->second.rank), found->second.token};
        });
    merger.ForEach([&](const MergeSymbol& symbol) { ids.push_back(symbol.token); });
  }
  return absl::OkStatus();
}

}  // namespace tandem::frontend
