#include "frontend/tokenizer/vocabulary.h"

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

namespace tandem::frontend {
namespace {

constexpr int32_t kMaxTokens = 1 << 24;

/// End a turn or the text wherever they occur; no ordinary text is spelled so.
constexpr std::array<std::string_view, 9> kEndNames = {
    "<|eot_id|>",      "<|im_end|>",         "<end_of_turn>",
    "<|end|>",         "<|eom_id|>",         "<|endoftext|>",
    "<|end_of_text|>", "<end_of_utterance>", "<｜end▁of▁sentence｜>",
};
/// The same only where the file calls them control tokens: "</s>" is plain HTML elsewhere.
constexpr std::array<std::string_view, 7> kEndNamesIfControl = {
    "</s>", "<eos>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<turn|>",
};
/// Those of kEndNames that end a turn rather than the text, in order of preference.
constexpr size_t kTurnEndNames = 4;

absl::Status CheckId(const VocabularyParts& parts, std::string_view role,
                     std::optional<int32_t> id) {
  if (id.has_value() && (*id < 0 || static_cast<size_t>(*id) >= parts.tokens.size())) {
    return InvalidArgument("{}: the {} token {} is not among the {} tokens of the vocabulary",
                           parts.origin, role, *id, parts.tokens.size());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<int32_t>> OptionalId(const core::GgufFile& file,
                                                  std::string_view key) {
  if (!file.Has(key)) return std::optional<int32_t>();
  TANDEM_ASSIGN_OR_RETURN(const int64_t id, file.Integer(key));
  if (id < 0 || id > kMaxTokens) {
    return InvalidArgument("{}: {} is {}, expected the id of a token", file.path(), key, id);
  }
  return std::optional<int32_t>(static_cast<int32_t>(id));
}

}  // namespace

absl::StatusOr<Vocabulary> Vocabulary::Create(const VocabularyParts& parts) {
  const size_t count = parts.tokens.size();
  if (count == 0 || count > static_cast<size_t>(kMaxTokens)) {
    return InvalidArgument("{}: a vocabulary of {} tokens, expected 1 to {}", parts.origin, count,
                           kMaxTokens);
  }
  if (!parts.types.empty() && parts.types.size() != count) {
    return InvalidArgument("{}: {} token types for {} tokens", parts.origin, parts.types.size(),
                           count);
  }
  if (!parts.scores.empty() && parts.scores.size() != count) {
    return InvalidArgument("{}: {} token scores for {} tokens", parts.origin, parts.scores.size(),
                           count);
  }
  TANDEM_RETURN_IF_ERROR(CheckId(parts, "start", parts.bos));
  TANDEM_RETURN_IF_ERROR(CheckId(parts, "end", parts.eos));
  TANDEM_RETURN_IF_ERROR(CheckId(parts, "end-of-turn", parts.eot));
  TANDEM_RETURN_IF_ERROR(CheckId(parts, "end-of-message", parts.eom));
  TANDEM_RETURN_IF_ERROR(CheckId(parts, "unknown", parts.unknown));

  Vocabulary vocabulary;
  vocabulary.origin_ = parts.origin;
  vocabulary.texts_ = std::make_unique<std::string>();
  size_t bytes = 0;
  for (const std::string_view token : parts.tokens) bytes += token.size();
  vocabulary.texts_->reserve(bytes);
  vocabulary.text_ends_.reserve(count);
  for (const std::string_view token : parts.tokens) {
    vocabulary.texts_->append(token);
    vocabulary.text_ends_.push_back(vocabulary.texts_->size());
  }
  vocabulary.types_ = parts.types;
  vocabulary.types_.resize(count, TokenType::kNormal);
  vocabulary.scores_ = parts.scores;
  vocabulary.index_.reserve(count);
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    vocabulary.index_.try_emplace(vocabulary.text(id), id);
  }
  vocabulary.bos_ = parts.bos;
  vocabulary.eos_ = parts.eos;
  vocabulary.eot_ = parts.eot;
  vocabulary.unknown_ = parts.unknown;
  vocabulary.add_bos_ = parts.add_bos && parts.bos.has_value();
  vocabulary.FindEndOfGeneration(parts);
  return vocabulary;
}

void Vocabulary::FindEndOfGeneration(const VocabularyParts& parts) {
  for (const std::optional<int32_t> id : {parts.eos, parts.eot, parts.eom}) {
    if (id.has_value()) end_of_generation_.push_back(*id);
  }
  for (size_t i = 0; i < kEndNames.size(); ++i) {
    const std::optional<int32_t> id = Find(kEndNames[i]);
    if (!id.has_value()) continue;
    types_[static_cast<size_t>(*id)] = TokenType::kControl;
    end_of_generation_.push_back(*id);
    if (i < kTurnEndNames && !eot_.has_value()) eot_ = id;
  }
  for (const std::string_view name : kEndNamesIfControl) {
    const std::optional<int32_t> id = Find(name);
    if (id.has_value() && IsControl(*id)) end_of_generation_.push_back(*id);
  }
  std::sort(end_of_generation_.begin(), end_of_generation_.end());
  end_of_generation_.erase(std::unique(end_of_generation_.begin(), end_of_generation_.end()),
                           end_of_generation_.end());
}

std::string_view Vocabulary::text(int32_t id) const {
  const auto index = static_cast<size_t>(id);
  const size_t begin = index == 0 ? 0 : text_ends_[index - 1];
  return std::string_view(*texts_).substr(begin, text_ends_[index] - begin);
}

std::optional<int32_t> Vocabulary::Find(std::string_view text) const {
  const auto found = index_.find(text);
  if (found == index_.end()) return std::nullopt;
  return found->second;
}

bool Vocabulary::EndsGeneration(int32_t id) const {
  return std::binary_search(end_of_generation_.begin(), end_of_generation_.end(), id);
}

namespace {

/// Each key of the tokenizer is one that is read, one that changes nothing for byte-level and
/// SentencePiece vocabularies, or a refusal: a new one may change what the tokens are.
absl::Status CheckKnownKeys(const core::GgufFile& file) {
  static constexpr std::string_view kKnown[] = {
      "model", "pre", "tokens", "token_type", "scores", "merges", "bos_token_id", "eos_token_id",
      "eot_token_id", "eom_token_id", "unknown_token_id", "add_bos_token", "add_space_prefix",
      // Tokens of tasks that are not done here, and keys of other kinds of tokenizers.
      "token_type_count", "seperator_token_id", "separator_token_id", "padding_token_id",
      "mask_token_id", "cls_token_id", "prefix_token_id", "suffix_token_id", "middle_token_id",
      "fim_pre_token_id", "fim_suf_token_id", "fim_mid_token_id", "fim_pad_token_id",
      "fim_rep_token_id", "fim_sep_token_id", "remove_extra_whitespaces", "precompiled_charsmap"};
  constexpr std::string_view kPrefix = "tokenizer.ggml.";
  for (const core::GgufEntry& entry : file.entries()) {
    if (!entry.key.starts_with(kPrefix) || file.IsNeutral(entry)) continue;
    const std::string_view key = entry.key.substr(kPrefix.size());
    if (std::find(std::begin(kKnown), std::end(kKnown), key) != std::end(kKnown)) continue;
    return Unimplemented(
        "{}: key '{}' is {}: this is not supported; texts could become wrong tokens without it",
        file.path(), core::PrintableText(entry.key), file.ValueText(entry));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<VocabularyParts> ReadVocabulary(const core::GgufFile& file,
                                               bool add_bos_by_default) {
  VocabularyParts parts;
  TANDEM_RETURN_IF_ERROR(CheckKnownKeys(file));
  parts.origin = file.path();
  TANDEM_ASSIGN_OR_RETURN(parts.tokens, file.Strings("tokenizer.ggml.tokens"));
  if (file.Has("tokenizer.ggml.token_type")) {
    TANDEM_ASSIGN_OR_RETURN(const std::vector<int64_t> types,
                            file.Integers("tokenizer.ggml.token_type"));
    parts.types.reserve(types.size());
    for (size_t i = 0; i < types.size(); ++i) {
      if (types[i] < 0 || types[i] > static_cast<int64_t>(TokenType::kByte)) {
        return InvalidArgument("{}: tokenizer.ggml.token_type of token {} is {}, expected 0 to 6",
                               file.path(), i, types[i]);
      }
      // 0 is "undefined" in the format; its tokens are ordinary ones.
      parts.types.push_back(types[i] == 0 ? TokenType::kNormal : static_cast<TokenType>(types[i]));
    }
  }
  if (file.Has("tokenizer.ggml.scores")) {
    TANDEM_ASSIGN_OR_RETURN(parts.scores, file.Floats("tokenizer.ggml.scores"));
  }
  TANDEM_ASSIGN_OR_RETURN(parts.bos, OptionalId(file, "tokenizer.ggml.bos_token_id"));
  TANDEM_ASSIGN_OR_RETURN(parts.eos, OptionalId(file, "tokenizer.ggml.eos_token_id"));
  TANDEM_ASSIGN_OR_RETURN(parts.eot, OptionalId(file, "tokenizer.ggml.eot_token_id"));
  TANDEM_ASSIGN_OR_RETURN(parts.eom, OptionalId(file, "tokenizer.ggml.eom_token_id"));
  TANDEM_ASSIGN_OR_RETURN(parts.unknown, OptionalId(file, "tokenizer.ggml.unknown_token_id"));
  TANDEM_ASSIGN_OR_RETURN(parts.add_bos,
                          file.BoolOr("tokenizer.ggml.add_bos_token", add_bos_by_default));
  return parts;
}

}  // namespace tandem::frontend
