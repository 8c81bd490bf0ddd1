#include "frontend/client/terminal_text.h"

#include <gtest/gtest.h>

#include "frontend/text/utf8.h"

namespace tandem::frontend {
namespace {

TEST(TerminalText, LeavesOutWhatATerminalWouldObey) {
  struct Case {
    std::string_view text;
    std::string_view clean;
  };
  for (const auto& [text, clean] : std::initializer_list<Case>{
           {"plain\ttext\n", "plain\ttext\n"},
           {"naïve 🚲 漢字 \u00A0", "naïve 🚲 漢字 \u00A0"},
           {"a\x1B[31mred\x1B[0m", "ared"},
           {"a\x1B[2J\x1B[1;1Hb", "ab"},
           {"a\x1B]0;title\x07"
            "b",
            "ab"},
           {"a\x1B]52;c;ZXZpbA==\x1B\\b", "ab"},
           {"a\x1BPqsixel\x1B\\b", "ab"},
           {"a\x1B(Bb\x1B"
            "cd",
            "abd"},
           {"a\u009B31mb", "ab"},
           {"a\u009D0;title\u009Cb", "ab"},
           {"a\u0085b\x7F\x08\x0D\x0B", "ab"},
           {"a\u202Eb\u2066c\u061Cd\u200E", "abcd"},
           {"\x1B]0;never ends\nb", "\nb"},
           {"\x1B[\nb", "\nb"},
           {"\x1B\x1B[31mx", "x"},
           {"[31m without ESC", "[31m without ESC"},
       }) {
    EXPECT_EQ(TerminalText().Clean(text), clean);
    // The same in pieces of one character.
    TerminalText cleaner;
    std::string joined;
    for (std::string_view rest = text; !rest.empty();) {
      const size_t length = ReadUtf8(rest).length;
      joined += cleaner.Clean(rest.substr(0, length));
      rest.remove_prefix(length);
    }
    EXPECT_EQ(joined, clean);
  }
}

}  // namespace
}  // namespace tandem::frontend
