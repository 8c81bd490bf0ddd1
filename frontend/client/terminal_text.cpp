#include "frontend/client/terminal_text.h"

#include <algorithm>

#include "frontend/text/utf8.h"

namespace tandem::frontend {
namespace {

constexpr char kEscapeCharacter = '\x1B';
constexpr char kBell = '\x07';

bool IsControl(std::string_view character) {
  const auto first = static_cast<unsigned char>(character[0]);
  if (character.size() == 1) {
    return (first < 0x20 && first != '\n' && first != '\t') || first == 0x7F;
  }
  const auto second = static_cast<unsigned char>(character[1]);
  return first == 0xC2 && second < 0xA0;  // U+0080 to U+009F
}

/// U+200E, U+200F, U+202A to U+202E, U+2066 to U+2069, U+061C.
bool IsBidiControl(std::string_view character) {
  if (character == "\xD8\x9C") return true;
  if (character.size() != 3 || character[0] != '\xE2') return false;
  const auto second = static_cast<unsigned char>(character[1]);
  const auto third = static_cast<unsigned char>(character[2]);
  if (second == 0x80) return third == 0x8E || third == 0x8F || (third >= 0xAA && third <= 0xAE);
  return second == 0x81 && third >= 0xA6 && third <= 0xA9;
}

}  // namespace

std::string TerminalText::Clean(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t length = std::max<size_t>(ReadUtf8(text).length, 1);
    Take(text.substr(0, length), out);
    text.remove_prefix(length);
  }
  return out;
}

void TerminalText::Take(std::string_view character, std::string& out) {
  const char c = character[0];
  if (c == '\n') state_ = State::kText;
  switch (state_) {
    case State::kText:
      if (c == kEscapeCharacter) {
        state_ = State::kEscape;
      } else if (character == "\xC2\x9B") {  // CSI in one character
        state_ = State::kSequence;
      } else if (character == "\xC2\x9D" || character == "\xC2\x90") {  // OSC, DCS
        state_ = State::kString;
      } else if (!IsControl(character) && !IsBidiControl(character)) {
        out += character;
      }
      return;
    case State::kEscape:
      if (c == '[') {
        state_ = State::kSequence;
      } else if (c == ']' || c == 'P' || c == 'X' || c == '^' || c == '_') {
        state_ = State::kString;
      } else if (c == kEscapeCharacter || (c >= 0x20 && c <= 0x2F)) {
        state_ = State::kEscape;  // intermediate bytes: ESC ( B
      } else {
        state_ = State::kText;
      }
      return;
    case State::kSequence:
      if (c >= 0x40 && c <= 0x7E) state_ = State::kText;
      if (c == kEscapeCharacter) state_ = State::kEscape;
      return;
    case State::kString:
      if (c == kBell || character == "\xC2\x9C") state_ = State::kText;
      if (c == kEscapeCharacter) state_ = State::kStringEscape;
      return;
    case State::kStringEscape:
      state_ = c == '\\' ? State::kText : State::kString;
      return;
  }
}

}  // namespace tandem::frontend
