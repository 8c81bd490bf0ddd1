#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/status.h"
#include "core/formats/gguf.h"
#include "frontend/text/text_segment.h"
#include "frontend/tokenizer/token_splitter.h"
#include "frontend/tokenizer/vocabulary.h"

namespace tandem::frontend {

struct EncodeOptions {
  bool special = false;  // control tokens spelled in the text are recognized
  bool bos = false;      // begin with the start token, if the model's file wants one
};

/// Text to token ids and back, for one model's vocabulary.
///
/// Text is UTF-8; an invalid run of bytes counts as U+FFFD, as in Python's errors="replace" (the
/// programs that vocabularies are made with take no other text either). User-defined tokens (type
/// 4) are recognized in any text, leftmost first and the longest of them; control tokens (type 3)
/// only where they are asked for. What lies between is encoded as one string.
/// Thread safety: immutable; all methods may be called from any thread at once.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  const Vocabulary& vocabulary() const { return vocabulary_; }

  /// Ids of a text. kResourceExhausted if the pre-tokenizer's pattern gives up on it.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              const EncodeOptions& options = {}) const;

  /// Ids of a rendered chat. A control token is recognized only where the template wrote all of
  /// its bytes; everything else is encoded as if it were one string, across borders of segments
  /// too. Begins with the start token if the model's file wants one and the template has not
  /// written it.
  absl::StatusOr<std::vector<int32_t>> EncodeSegments(std::span<const TextSegment> segments) const;

  /// Ids of the rest of a rendered chat whose beginning is encoded already: as EncodeSegments, but
  /// without a start token. Nothing if the rest begins with plain text and this tokenizer puts a
  /// space before texts.
  absl::StatusOr<std::optional<std::vector<int32_t>>> EncodeContinuation(
      std::span<const TextSegment> segments) const;

  /// The bytes that a token stands for in text, which need not be whole characters: "Ġhello" gives
  /// " hello", "<0x41>" of type byte gives "A", control tokens give their name. `id` must be in the
  /// vocabulary.
  virtual std::string TokenBytes(int32_t id) const = 0;

  /// True if encoding puts a space before a text (and decoding takes it away).
  virtual bool adds_leading_space() const { return false; }
  /// How many bytes of a text are left at least for tokens to stand for, where encoding normalizes
  /// it or leaves bytes out. In one pass.
  virtual size_t LeastBytes(std::string_view text) const { return text.size(); }

 protected:
  Tokenizer(Vocabulary vocabulary, TokenSplitter splitter)
      : vocabulary_(std::move(vocabulary)), splitter_(std::move(splitter)) {}

  /// The text as the splitter and EncodeText want it: valid UTF-8.
  virtual std::string PrepareText(std::string_view text) const;

  /// Appends the ids of prepared text without control or user-defined tokens. Called for each run
  /// of text that is the whole input or bordered by such tokens; never empty.
  virtual absl::Status EncodeText(std::string_view text, std::vector<int32_t>& ids) const = 0;

 private:
  SplitText Prepare(std::span<const TextSegment> segments) const;
  absl::Status EncodeSplit(const SplitText& text, std::vector<int32_t>& ids) const;

  Vocabulary vocabulary_;
  TokenSplitter splitter_;
};

/// The tokenizer that a model file describes: tokenizer.ggml.model "gpt2" (byte-level BPE, by the
/// pre-tokenizer that tokenizer.ggml.pre names) or "llama" (SentencePiece BPE with scores and byte
/// fallback). Errors name the file, and what in it is missing, malformed or not known. The file may
/// be closed afterwards.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const core::GgufFile& file);

}  // namespace tandem::frontend
