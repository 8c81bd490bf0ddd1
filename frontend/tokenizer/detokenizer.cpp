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

}  // namespace tandem::frontend
