#include "frontend/tokenizer/detokenizer.h"

namespace tandem::frontend {

Detokenizer::Detokenizer(const Tokenizer& tokenizer, const DecodeOptions& options)
    : tokenizer_(tokenizer),
      special_(options.special),
      strip_space_(options.text_start && tokenizer.adds_leading_space()) {}

std::string Detokenizer::Push(int32_t id) {
  const Vocabulary& vocabulary = tokenizer_.vocabulary();
  if (!vocabulary.Contains(id)) return {};
  const bool control = vocabulary.IsControl(id);
  if (control && !special_) return {};
  std::string bytes = tokenizer_.TokenBytes(id);
  if (!control && strip_space_ && !bytes.empty()) {
    strip_space_ = false;
    if (bytes.front() == ' ') bytes.erase(0, 1);
  }
  return stream_.Append(bytes);
}

std::string Detokenizer::Flush() { return stream_.Finish(); }

absl::StatusOr<std::string> Decode(const Tokenizer& tokenizer, std::span<const int32_t> ids,
                                   const DecodeOptions& options) {
  Detokenizer detokenizer(tokenizer, options);
  std::string text;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!tokenizer.vocabulary().Contains(ids[i])) {
      return InvalidArgument("token {} at index {} is not in the vocabulary (0 to {})", ids[i], i,
                             tokenizer.vocabulary().size() - 1);
    }
    text += detokenizer.Push(ids[i]);
  }
  return text + detokenizer.Flush();
}

}  // namespace tandem::frontend
