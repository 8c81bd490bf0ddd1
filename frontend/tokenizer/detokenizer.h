#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "core/base/status.h"
#include "frontend/text/utf8.h"
#include "frontend/tokenizer/tokenizer.h"

namespace tandem::frontend {

struct DecodeOptions {
  /// Spell control tokens as the vocabulary does ("<|im_end|>") instead of leaving them out.
  bool special = false;
  /// The tokens begin a text: the space that SentencePiece puts before a text is taken away again.
  /// False for tokens that continue one.
  bool text_start = true;
};

/// Turns tokens into text as they come, never ending inside a character.
///
/// The pieces from Push and Flush, joined, equal Decode of all tokens. The tokenizer
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

/// Text of these ids, invalid UTF-8 as U+FFFD. kInvalidArgument for an id outside the vocabulary,
/// naming it and its index.
absl::StatusOr<std::string> Decode(const Tokenizer& tokenizer, std::span<const int32_t> ids,
                                   const DecodeOptions& options = {});

}  // namespace tandem::frontend
