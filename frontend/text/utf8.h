#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace tandem::frontend {

/// U+FFFD in UTF-8.
inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

/// What stands at the start of some bytes, in the terms of the Unicode standard (table 3-7).
struct Utf8Prefix {
  enum class Kind {
    kCharacter,   // a whole character of `length` bytes
    kInvalid,     // `length` bytes (1 to 3) that no continuation can make a character
    kIncomplete,  // the bytes end inside what may still become a character; `length` = all of them
  };
  Kind kind = Kind::kInvalid;
  size_t length = 0;
};

/// Looks at the first character of `bytes`, which must not be empty. Surrogates, overlong forms and
/// values above U+10FFFF are invalid. An invalid run is the longest prefix of a character ("maximal
/// subpart"), as in Python's errors="replace" and the WHATWG decoder.
Utf8Prefix ReadUtf8(std::string_view bytes);

/// Length in bytes of the longest valid prefix of `bytes`.
size_t ValidUtf8Prefix(std::string_view bytes);

/// The same text with every invalid run as U+FFFD.
std::string ReplaceInvalidUtf8(std::string_view bytes);

/// Turns bytes that come in pieces into text that never ends inside a character.
///
/// The pieces given out, joined, equal ReplaceInvalidUtf8 of the bytes put in, joined.
/// Thread safety: none.
class Utf8Stream {
 public:
  /// The characters completed by these bytes.
  std::string Append(std::string_view bytes);
  /// What was held back, as U+FFFD; the stream is then at its start again.
  std::string Finish();
  /// True if everything that was put in has come out.
  bool whole() const { return held_.empty(); }

 private:
  std::string held_;  // at most 3 bytes: an incomplete character
};

/// Appends a code point (below 0x110000, not a surrogate) to `out`.
void AppendUtf8(char32_t code_point, std::string& out);

/// A text without the byte order mark that some editors put in front.
inline std::string_view WithoutByteOrderMark(std::string_view text) {
  constexpr std::string_view kMark = "\xEF\xBB\xBF";
  return text.starts_with(kMark) ? text.substr(kMark.size()) : text;
}

}  // namespace tandem::frontend
