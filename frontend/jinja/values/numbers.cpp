#include "frontend/jinja/values/numbers.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string>

#include "fmt/format.h"
#include "frontend/jinja/values/unicode.h"

namespace tandem::frontend::jinja {
namespace {

bool IsDigitOrLetter(char character) {
  const char lower = static_cast<char>(character | 0x20);
  return (character >= '0' && character <= '9') || (lower >= 'a' && lower <= 'z');
}

std::string_view Stripped(std::string_view text) {
  const size_t begin = SkipSpace(text, 0, text.size());
  return text.substr(begin, SkipSpaceBack(text, begin, text.size()) - begin);
}

// Without underscores, which may stand between two digits only; nothing if one stands elsewhere.
std::optional<std::string> WithoutUnderscores(std::string_view text) {
  std::string result;
  for (size_t index = 0; index < text.size(); ++index) {
    if (text[index] != '_') {
      result.push_back(text[index]);
    } else if (index == 0 || index + 1 == text.size() || !IsDigitOrLetter(text[index - 1]) ||
               !IsDigitOrLetter(text[index + 1])) {
      return std::nullopt;
    }
  }
  return result;
}

constexpr int64_t kMaxPrecision = 330;  // no double has more decimal places

}  // namespace

std::optional<double> ParseFloat(std::string_view text) {
  std::optional<std::string> digits = WithoutUnderscores(Stripped(text));
  if (!digits || digits->empty()) return std::nullopt;
  std::string_view rest = *digits;
  const bool negative = rest.front() == '-';
  if (rest.front() == '-' || rest.front() == '+') rest.remove_prefix(1);
  if (rest.empty() || rest.front() == '-' || rest.front() == '+') return std::nullopt;
  std::string lower(rest);
  std::transform(lower.begin(), lower.end(), lower.begin(), [](char character) {
    return character >= 'A' && character <= 'Z' ? static_cast<char>(character | 0x20) : character;
  });
  double value = 0.0;
  if (lower == "inf" || lower == "infinity") {
    value = HUGE_VAL;
  } else if (lower == "nan") {
    value = std::nan("");
  } else {
    if (!(lower.front() == '.' || (lower.front() >= '0' && lower.front() <= '9'))) {
      return std::nullopt;
    }
    const auto result = std::from_chars(lower.data(), lower.data() + lower.size(), value);
    if (result.ptr != lower.data() + lower.size() || result.ec == std::errc::invalid_argument) {
      return std::nullopt;
    }
    if (result.ec == std::errc::result_out_of_range) {
      const bool tiny = lower.find("e-") != std::string::npos;
      value = tiny ? 0.0 : HUGE_VAL;
    }
  }
  return negative ? -value : value;
}

absl::StatusOr<std::optional<int64_t>> ParseInteger(std::string_view text, int64_t base) {
  const std::optional<int64_t> nothing;
  std::string_view rest = Stripped(text);
  const bool negative = !rest.empty() && rest.front() == '-';
  if (!rest.empty() && (rest.front() == '-' || rest.front() == '+')) rest.remove_prefix(1);
  if (rest.size() > 2 && rest[0] == '0') {
    const char mark = static_cast<char>(rest[1] | 0x20);
    const int64_t marked = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
    if (marked != 0 && (base == marked || base == 0)) {
      base = marked;
      rest.remove_prefix(rest[2] == '_' ? 3 : 2);
    }
  }
  base = base == 0 ? 10 : base;
  if (base < 2 || base > 36) return nothing;
  const std::optional<std::string> digits = WithoutUnderscores(rest);
  if (!digits || digits->empty() || digits->front() == '-') return nothing;
  const std::string signed_digits = negative ? "-" + *digits : *digits;
  int64_t value = 0;
  const char* const end = signed_digits.data() + signed_digits.size();
  const auto result = std::from_chars(signed_digits.data(), end, value, static_cast<int>(base));
  if (result.ptr != end || result.ec == std::errc::invalid_argument) return nothing;
  if (result.ec == std::errc::result_out_of_range) {
    return InvalidArgument("the integer {} does not fit 64 bits", signed_digits.substr(0, 40));
  }
  return std::optional<int64_t>(value);
}

double RoundFloat(double value, int64_t precision) {
  if (!std::isfinite(value) || precision > kMaxPrecision) return value;
  if (precision < 0) {
    if (precision < -kMaxPrecision) return std::copysign(0.0, value);
    const double unit = std::pow(10.0, static_cast<double>(-precision));
    return std::isinf(unit) ? std::copysign(0.0, value) : std::nearbyint(value / unit) * unit;
  }
  const std::string digits = fmt::format("{:.{}f}", value, precision);
  double rounded = value;
  std::from_chars(digits.data(), digits.data() + digits.size(), rounded);
  return rounded;
}

absl::StatusOr<int64_t> RoundInteger(int64_t value, int64_t precision) {
  if (precision >= 0) return value;
  if (precision < -18) return 0;
  int64_t unit = 1;
  for (int64_t digit = 0; digit > precision; --digit) {
    unit *= 10;
  }
  const int64_t remainder = value % unit;
  const int64_t base = value - remainder;
  const int64_t distance = remainder < 0 ? -remainder : remainder;
  const bool up = distance > unit / 2 || (distance == unit / 2 && (base / unit) % 2 != 0);
  int64_t result = base;
  if (up && __builtin_add_overflow(base, value < 0 ? -unit : unit, &result)) {
    return InvalidArgument("the rounded number does not fit 64 bits");
  }
  return result;
}

}  // namespace tandem::frontend::jinja
