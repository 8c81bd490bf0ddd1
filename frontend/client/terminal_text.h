#pragma once

#include <string>
#include <string_view>

namespace tandem::frontend {

/// Makes text that a model wrote harmless for a terminal, as it streams.
///
/// Escape sequences (ECMA-48: CSI, OSC and the other strings, short ones) are left out, also where
/// they are cut over several pieces; so are all control characters but newline and tab, in their
/// 8-bit forms (U+0080 to U+009F) too, and the characters that reorder lines (Unicode bidi
/// controls). An unfinished sequence ends at a newline, so that it cannot swallow an answer.
/// Input is valid UTF-8 in whole characters, and so is the output. Thread safety: one thread.
class TerminalText {
 public:
  std::string Clean(std::string_view text);

 private:
  enum class State {
    kText,
    kEscape,        // after ESC
    kSequence,      // in a CSI sequence, until its final byte
    kString,        // in an OSC, DCS, SOS, PM or APC string, until ST or BEL
    kStringEscape,  // in a string, after ESC: `\` ends it
  };
  void Take(std::string_view character, std::string& out);

  State state_ = State::kText;
};

}  // namespace tandem::frontend
