#include <utility>

#include "frontend/tokenizer/bpe_tokenizer.h"
#include "frontend/tokenizer/pre_tokenizer.h"
#include "frontend/tokenizer/spm_tokenizer.h"
#include "frontend/tokenizer/tokenizer.h"

namespace tandem::frontend {
namespace {

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadBpe(const core::GgufFile& file) {
  TANDEM_ASSIGN_OR_RETURN(const std::string_view name,
                          file.StringOr("tokenizer.ggml.pre", "default"));
  absl::StatusOr<PreTokenizer> pre_tokenizer = PreTokenizer::Create(name);
  if (!pre_tokenizer.ok()) {
    return InvalidArgument("{}: tokenizer.ggml.pre: {}", file.path(),
                           Message(pre_tokenizer.status()));
  }
  TANDEM_ASSIGN_OR_RETURN(const VocabularyParts parts,
                          ReadVocabulary(file, pre_tokenizer->entry().adds_bos));
  TANDEM_ASSIGN_OR_RETURN(Vocabulary vocabulary, Vocabulary::Create(parts));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string_view> merges,
                          file.Strings("tokenizer.ggml.merges"));
  return BpeTokenizer::Create(std::move(vocabulary), merges, *std::move(pre_tokenizer));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadSpm(const core::GgufFile& file) {
  TANDEM_ASSIGN_OR_RETURN(VocabularyParts parts, ReadVocabulary(file, true));
  if (parts.scores.empty()) {
    return NotFound("{}: no tokenizer.ggml.scores, which a tokenizer of model 'llama' needs",
                    file.path());
  }
  TANDEM_ASSIGN_OR_RETURN(const bool add_space_prefix,
                          file.BoolOr("tokenizer.ggml.add_space_prefix", true));
  TANDEM_ASSIGN_OR_RETURN(Vocabulary vocabulary, Vocabulary::Create(parts));
  return SpmTokenizer::Create(std::move(vocabulary), add_space_prefix);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const core::GgufFile& file) {
  const auto load = [&]() -> absl::StatusOr<std::unique_ptr<Tokenizer>> {
    TANDEM_ASSIGN_OR_RETURN(const std::string_view model, file.String("tokenizer.ggml.model"));
    if (model == "gpt2") return LoadBpe(file);
    if (model == "llama") return LoadSpm(file);
    return Unimplemented("{}: tokenizer.ggml.model is '{}', expected 'gpt2' or 'llama'",
                         file.path(), core::PrintableText(model));
  };
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = load();
  if (!tokenizer.ok()) return DamagedInside(tokenizer.status());
  return tokenizer;
}

}  // namespace tandem::frontend
