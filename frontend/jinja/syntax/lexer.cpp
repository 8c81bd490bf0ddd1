#include "frontend/jinja/syntax/lexer.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "frontend/jinja/values/text.h"
#include "frontend/jinja/values/unicode.h"

namespace tandem::frontend::jinja {
namespace {

constexpr std::string_view kOperators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                           "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                           ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};

bool IsDigit(char character) { return character >= '0' && character <= '9'; }

std::string NormalizeNewlines(std::string_view source) {
  std::string result;
  result.reserve(source.size());
  for (size_t index = 0; index < source.size(); ++index) {
    if (source[index] == '\r') {
      result.push_back('\n');
      index += index + 1 < source.size() && source[index + 1] == '\n';
    } else {
      result.push_back(source[index]);
    }
  }
  if (!result.empty() && result.back() == '\n') result.pop_back();
  return result;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : owned_(NormalizeNewlines(source)), source_(owned_) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (position_ < source_.size()) {
      TANDEM_RETURN_IF_ERROR(LexData());
    }
    Emit(TokenType::kEnd, "");
    return std::move(tokens_);
  }

 private:
  enum class Tag { kNone, kVariable, kBlock, kComment, kRaw };

  void Emit(TokenType type, std::string text) {
    Token token;
    token.type = type;
    token.line = line_;
    token.text = std::move(text);
    tokens_.push_back(std::move(token));
  }

  bool At(std::string_view text) const { return source_.substr(position_, text.size()) == text; }

  // Moves on, counting lines.
  void Advance(size_t end) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(position_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(end), '\n'));
    if (end > position_) line_starting_ = source_[end - 1] == '\n';
    position_ = end;
  }

  size_t SkipSpaceFrom(size_t offset) const { return SkipSpace(source_, offset, source_.size()); }

  // The offset after `{% raw %}` that starts at `offset`, if one does.
  std::optional<size_t> MatchRawBegin(size_t offset) const {
    offset += 2;
    if (offset < source_.size() && (source_[offset] == '-' || source_[offset] == '+')) ++offset;
    offset = SkipSpaceFrom(offset);
    if (source_.substr(offset, 3) != "raw") return std::nullopt;
    offset = SkipSpaceFrom(offset + 3);
    if (source_.substr(offset, 3) == "-%}") return SkipSpaceFrom(offset + 3);
    if (source_.substr(offset, 2) == "%}") return offset + 2;
    return std::nullopt;
  }

  // The offset after an end tag at `offset` with its white space control, if one is there.
  std::optional<size_t> MatchEnd(size_t offset, std::string_view closer, bool plus,
                                 bool trim) const {
    if (offset < source_.size() && source_[offset] == '-' &&
        source_.substr(offset + 1, 2) == closer) {
      return SkipSpaceFrom(offset + 3);
    }
    if (plus && offset < source_.size() && source_[offset] == '+' &&
        source_.substr(offset + 1, 2) == closer) {
      return offset + 3;
    }
    if (source_.substr(offset, 2) == closer) {
      return offset + 2 + (trim && source_.substr(offset + 2, 1) == "\n");
    }
    return std::nullopt;
  }

  // Emits the data before a tag at `end` whose white space control is `sign`; `strip_indent` for
  // tags that lstrip_blocks applies to.
  void EmitData(size_t end, char sign, bool strip_indent) {
    std::string_view data = source_.substr(position_, end - position_);
    if (sign == '-') {
      data = data.substr(0, SkipSpaceBack(data, 0, data.size()));
    } else if (sign != '+' && strip_indent) {
      const size_t newline = data.rfind('\n');
      const size_t line_begin = newline == std::string_view::npos ? 0 : newline + 1;
      if ((line_begin > 0 || line_starting_) &&
          SkipSpace(data, line_begin, data.size()) == data.size()) {
        data = data.substr(0, line_begin);
      }
    }
    if (!data.empty()) Emit(TokenType::kData, std::string(data));
    Advance(end);
  }

  char SignAt(size_t offset) const {
    const char sign = offset < source_.size() ? source_[offset] : '\0';
    return sign == '-' || sign == '+' ? sign : '\0';
  }

  absl::Status LexData() {
    size_t begin = position_;
    Tag tag = Tag::kNone;
    while (tag == Tag::kNone) {
      begin = source_.find('{', begin);
      if (begin == std::string_view::npos || begin + 1 >= source_.size()) {
        Emit(TokenType::kData, std::string(source_.substr(position_)));
        Advance(source_.size());
        return absl::OkStatus();
      }
      const char kind = source_[begin + 1];
      tag = kind == '%'   ? (MatchRawBegin(begin) ? Tag::kRaw : Tag::kBlock)
            : kind == '{' ? Tag::kVariable
            : kind == '#' ? Tag::kComment
                          : Tag::kNone;
      begin += tag == Tag::kNone;
    }
    const char sign = SignAt(begin + 2);
    EmitData(begin, sign, tag != Tag::kVariable);
    const size_t inside = begin + 2 + (sign != '\0');
    switch (tag) {
      case Tag::kRaw:
        Advance(*MatchRawBegin(begin));
        return LexRaw();
      case Tag::kComment:
        Advance(inside);
        return LexComment();
      case Tag::kVariable:
        Emit(TokenType::kVariableBegin, "{{");
        Advance(inside);
        return LexTag("}}", TokenType::kVariableEnd);
      default:
        Emit(TokenType::kBlockBegin, "{%");
        Advance(inside);
        return LexTag("%}", TokenType::kBlockEnd);
    }
  }

  absl::Status LexComment() {
    for (size_t offset = position_; offset < source_.size(); ++offset) {
      if (const auto end = MatchEnd(offset, "#}", true, true)) {
        Advance(*end);
        return absl::OkStatus();
      }
    }
    return Error("the comment that starts here has no '#}}'");
  }

  absl::Status LexRaw() {
    for (size_t begin = source_.find("{%", position_); begin != std::string_view::npos;
         begin = source_.find("{%", begin + 1)) {
      const char sign = SignAt(begin + 2);
      const size_t name = SkipSpaceFrom(begin + 2 + (sign != '\0'));
      if (source_.substr(name, 6) != "endraw") continue;
      if (const auto end = MatchEnd(SkipSpaceFrom(name + 6), "%}", true, true)) {
        EmitData(begin, sign, true);
        Advance(*end);
        return absl::OkStatus();
      }
    }
    return Error("the raw block that starts here has no '{{% endraw %}}'");
  }

  absl::Status LexTag(std::string_view closer, TokenType end_type) {
    const bool block = end_type == TokenType::kBlockEnd;
    std::string open;  // closing brackets that are still awaited
    while (position_ < source_.size()) {
      if (open.empty()) {
        if (const auto end = MatchEnd(position_, closer, block, block)) {
          Emit(end_type, std::string(closer));
          Advance(*end);
          return absl::OkStatus();
        }
      }
      if (const size_t next = SkipSpaceFrom(position_); next > position_) {
        Advance(next);
      } else if (IsDigit(source_[position_])) {
        TANDEM_RETURN_IF_ERROR(LexNumber());
      } else if (source_[position_] == '\'' || source_[position_] == '"') {
        TANDEM_RETURN_IF_ERROR(LexString());
      } else if (IsIdentifier(DecodeAt(source_, position_).value, true)) {
        LexName();
      } else {
        TANDEM_RETURN_IF_ERROR(LexOperator(open));
      }
    }
    return absl::OkStatus();
  }

  void LexName() {
    size_t end = position_;
    while (end < source_.size()) {
      const CodePoint point = DecodeAt(source_, end);
      if (!IsIdentifier(point.value, false)) break;
      end += point.length;
    }
    Emit(TokenType::kName, std::string(source_.substr(position_, end - position_)));
    Advance(end);
  }

  absl::Status LexOperator(std::string& open) {
    const auto symbol = std::find_if(std::begin(kOperators), std::end(kOperators),
                                     [&](std::string_view candidate) { return At(candidate); });
    if (symbol == std::end(kOperators)) {
      const size_t length = DecodeAt(source_, position_).length;
      return Error("unexpected character '{}'", source_.substr(position_, length));
    }
    const char bracket = symbol->front();
    if (bracket == '(' || bracket == '[' || bracket == '{') {
      open.push_back(bracket == '(' ? ')' : bracket == '[' ? ']' : '}');
    } else if (bracket == ')' || bracket == ']' || bracket == '}') {
      if (open.empty()) return Error("unexpected '{}'", bracket);
      if (open.back() != bracket) {
        return Error("unexpected '{}', expected '{}'", bracket, open.back());
      }
      open.pop_back();
    }
    Emit(TokenType::kOperator, std::string(*symbol));
    Advance(position_ + symbol->size());
    return absl::OkStatus();
  }

  // The end of digits of one base, single underscores between them allowed.
  template <typename IsBaseDigit>
  size_t SkipDigits(size_t offset, IsBaseDigit is_digit) const {
    while (offset < source_.size() &&
           (is_digit(source_[offset]) || (source_[offset] == '_' && offset + 1 < source_.size() &&
                                          is_digit(source_[offset + 1])))) {
      ++offset;
    }
    return offset;
  }

  absl::Status LexNumber() {
    const size_t whole = SkipDigits(position_, IsDigit);
    size_t end = whole;
    if (end + 1 < source_.size() && source_[end] == '.' && IsDigit(source_[end + 1])) {
      end = SkipDigits(end + 1, IsDigit);
    }
    if (end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
      const size_t digits =
          end + 1 +
          (end + 1 < source_.size() && (source_[end + 1] == '+' || source_[end + 1] == '-'));
      if (digits < source_.size() && IsDigit(source_[digits])) end = SkipDigits(digits, IsDigit);
    }
    const bool after_dot = position_ > 0 && source_[position_ - 1] == '.';
    return end > whole && !after_dot ? LexFloat(end) : LexInteger();
  }

  std::string Digits(size_t begin, size_t end) const {
    std::string digits(source_.substr(begin, end - begin));
    digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
    return digits;
  }

  absl::Status LexFloat(size_t end) {
    const std::string digits = Digits(position_, end);
    Emit(TokenType::kFloat, digits);
    const auto result =
        std::from_chars(digits.data(), digits.data() + digits.size(), tokens_.back().number);
    if (result.ec != std::errc()) return Error("the number {} does not fit a float", digits);
    Advance(end);
    return absl::OkStatus();
  }

  absl::Status LexInteger() {
    int base = 10;
    size_t begin = position_;
    size_t end = begin;
    if (source_[begin] == '0') {
      const char mark = begin + 1 < source_.size() ? source_[begin + 1] | 0x20 : '\0';
      base = mark == 'b' ? 2 : mark == 'o' ? 8 : mark == 'x' ? 16 : 10;
      const auto is_digit = [base](char character) {
        const char lower = static_cast<char>(character | 0x20);
        return base == 16 ? IsDigit(character) || (lower >= 'a' && lower <= 'f')
                          : character >= '0' && character < '0' + base;
      };
      end = base == 10 ? begin : SkipDigits(begin + 2, is_digit);
      if (end <= begin + 2) {  // no digits of that base: a zero, then a name
        base = 10;
        end = SkipDigits(begin, [](char character) { return character == '0'; });
      } else {
        begin += 2;
      }
    } else {
      end = SkipDigits(begin, IsDigit);
    }
    const std::string digits = Digits(begin, end);
    Emit(TokenType::kInteger, digits);
    const auto result =
        std::from_chars(digits.data(), digits.data() + digits.size(), tokens_.back().integer, base);
    if (result.ec != std::errc()) return Error("the integer {} does not fit 64 bits", digits);
    Advance(end);
    return absl::OkStatus();
  }

  absl::Status LexString() {
    const char quote = source_[position_];
    size_t end = position_ + 1;
    while (end < source_.size() && source_[end] != quote) {
      end += source_[end] == '\\' ? 2 : 1;
    }
    if (end >= source_.size()) return Error("the string that starts here has no closing {}", quote);
    TANDEM_ASSIGN_OR_RETURN(std::string value,
                            Unescape(source_.substr(position_ + 1, end - position_ - 1)));
    Emit(TokenType::kString, std::move(value));
    Advance(end + 1);
    return absl::OkStatus();
  }

  // Python's "unicode-escape" codec.
  absl::StatusOr<std::string> Unescape(std::string_view raw) const {
    constexpr std::string_view kLetters = "abfnrtv\\'\"";
    constexpr std::string_view kMeanings = "\a\b\f\n\r\t\v\\'\"";
    std::string value;
    char32_t high_surrogate = 0;
    for (size_t index = 0; index < raw.size(); ++index) {
      if (raw[index] != '\\') {
        value.push_back(raw[index]);
        continue;
      }
      const char letter = raw[++index];
      if (const size_t known = kLetters.find(letter); known != std::string_view::npos) {
        value.push_back(kMeanings[known]);
      } else if (letter == '\n') {
        continue;
      } else if (letter >= '0' && letter <= '7') {
        char32_t code = 0;
        size_t digits = 0;
        while (digits < 3 && index + digits < raw.size() && raw[index + digits] >= '0' &&
               raw[index + digits] <= '7') {
          code = code * 8 + static_cast<char32_t>(raw[index + digits++] - '0');
        }
        index += digits - 1;
        AppendUtf8(value, code);
      } else if (letter == 'x' || letter == 'u' || letter == 'U') {
        const size_t digits = letter == 'x' ? 2 : letter == 'u' ? 4 : 8;
        uint32_t code = 0;
        const std::string_view hex = raw.substr(index + 1, digits);
        const auto result = std::from_chars(hex.data(), hex.data() + hex.size(), code, 16);
        if (hex.size() != digits || result.ptr != hex.data() + digits || code > 0x10FFFF) {
          return Error("the escape \\{}{} in a string is not valid", letter, hex);
        }
        index += digits;
        if (code >= 0xD800 && code < 0xDC00 && high_surrogate == 0) {
          high_surrogate = code;
          if (raw.substr(index + 1, 2) == "\\u") continue;
        } else if (code >= 0xDC00 && code < 0xE000 && high_surrogate != 0) {
          code = 0x10000 + ((high_surrogate - 0xD800) << 10) + (code - 0xDC00);
          high_surrogate = 0;
        }
        if (high_surrogate != 0 || (code >= 0xD800 && code < 0xE000)) {
          return Error("the escape \\{}{} in a string is half of a surrogate pair", letter, hex);
        }
        AppendUtf8(value, code);
      } else if (letter == 'N') {
        return Error("characters by name (\\N{{...}}) are not supported: use \\u");
      } else {
        value.push_back('\\');
        value.push_back(letter);
      }
    }
    return value;
  }

  template <typename... Args>
  absl::Status Error(fmt::format_string<Args...> format, Args&&... args) const {
    return InvalidArgument("line {}: {}", line_, fmt::format(format, std::forward<Args>(args)...));
  }

  const std::string owned_;
  const std::string_view source_;
  size_t position_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::string Describe(const Token& token) {
  switch (token.type) {
    case TokenType::kData:
      return "template text";
    case TokenType::kEnd:
      return "end of template";
    case TokenType::kVariableEnd:
      return "end of print statement";
    case TokenType::kBlockEnd:
      return "end of statement block";
    case TokenType::kString:
      return "string '" + token.text + "'";
    default:
      return "'" + token.text + "'";
  }
}

absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source) {
  int64_t line = 1;
  for (size_t offset = 0; offset < source.size();) {
    const CodePoint point = DecodeAt(source, offset);
    if (IsInvalidByte(point)) {
      return InvalidArgument("line {}: byte {} of the template, 0x{:02X}, is no UTF-8", line,
                             offset, static_cast<uint8_t>(source[offset]));
    }
    if (point.value == '\n') ++line;
    offset += point.length;
  }
  return Lexer(source).Run();
}

}  // namespace tandem::frontend::jinja
