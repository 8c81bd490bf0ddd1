#pragma once

#include <memory>
#include <string_view>

#include "frontend/tokenizer/tokenizer.h"

namespace tandem::testing {

/// Ids of the control and user-defined tokens in both tiny vocabularies.
inline constexpr int32_t kTinyUnknown = 0;      // "<unk>"
inline constexpr int32_t kTinyBos = 1;          // "<s>", wanted before raw text
inline constexpr int32_t kTinyEndOfTurn = 2;    // "<|im_end|>"
inline constexpr int32_t kTinyStartOfTurn = 3;  // "<|im_start|>"
inline constexpr int32_t kTinyUserDefined = 4;  // "\n\n"
inline constexpr int32_t kTinyFirstByte = 5;    // the byte 0; 256 of them

/// A byte-level vocabulary of all bytes and a few English merges ("he", "ll", "hell", "hello",
/// " w", "er", ...).
std::unique_ptr<frontend::Tokenizer> TinyBpe(std::string_view pre_tokenizer = "gpt-2");

/// A SentencePiece vocabulary with byte tokens, some letters and pieces, and an unused piece "ab".
std::unique_ptr<frontend::Tokenizer> TinySpm(bool add_space_prefix);

}  // namespace tandem::testing
