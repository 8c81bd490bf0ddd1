#pragma once

#include <string_view>

#include "frontend/jinja/values/text.h"

/// Character classes and case mapping as Python's str has them, over utf8proc's tables.
namespace tandem::frontend::jinja {

/// str.isspace of one code point; also what strip() and split() remove and regular expressions call
/// \s.
bool IsSpace(char32_t value);
/// A line border of str.splitlines ("\r\n" counts as one, which the caller sees to).
bool IsLineBreak(char32_t value);
/// str.isprintable of one code point: repr() shows it as it is.
bool IsPrintable(char32_t value);
/// A code point that has an upper or lower case form of its own (categories Lu, Ll, Lt).
bool IsCased(char32_t value);
bool IsLower(char32_t value);
bool IsUpper(char32_t value);
bool IsAlpha(char32_t value);
/// A decimal digit of any script (category Nd).
bool IsDecimal(char32_t value);
/// A code point that may stand in an identifier; `first` for its first place.
bool IsIdentifier(char32_t value, bool first);

/// str.upper, str.lower, str.title, str.capitalize, str.swapcase: every character keeps its origin.
Text ToUpper(const Text& text);
Text ToLower(const Text& text);
Text ToTitle(const Text& text);
Text ToCapitalized(const Text& text);
Text SwapCase(const Text& text);

/// The offset after the white space that starts at `begin`, and the offset where the white space
/// that ends at `end` begins; neither leaves [begin, end].
size_t SkipSpace(std::string_view text, size_t begin, size_t end);
size_t SkipSpaceBack(std::string_view text, size_t begin, size_t end);

}  // namespace tandem::frontend::jinja
