#pragma once

#include <cstdint>
#include <string>

#include "frontend/text/utf8.h"
#include "frontend/tokenizer/tokenizer.h"

namespace tandem::frontend {

/// Turns tokens into text as they come, never ending inside a character.
///
/// The pieces from Push and Flush, joined, equal Tokenizer::Decode of all tokens. The tokenizer
/// must outlive this. Thread safety: none.
class Detokenizer {
 public:
  explicit Detokenizer(const Tokenizer& tokenizer, const DecodeOptions& options = {});

  /// The text completed by this token; often empty in the middle of a character. Ids outside the
  /// vocabulary (rows that pad an embedding table) give nothing.
  std::string Push(int32_t id);
  /// What was held back, as U+FFFD. Afterwards another text continues this one.
  std::string Flush();
  /// True if no part of a character is held back.
  bool whole() const { return stream_.whole(); }

 private:
  const Tokenizer& tokenizer_;
  bool special_;
  bool strip_space_;  // the next text may begin with a space that encoding has added
  Utf8Stream stream_;
};

}  // namespace tandem::frontend
