#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "frontend/jinja/builtins/format.h"
#include "frontend/jinja/values/print.h"

// Numbers and padding under a format specification.
namespace tandem::frontend::jinja {
namespace {

std::string Grouped(const std::string& digits, char separator, size_t group) {
  std::string result;
  for (size_t index = 0; index < digits.size(); ++index) {
    if (index != 0 && (digits.size() - index) % group == 0) result += separator;
    result += digits[index];
  }
  return result;
}

// The digits of |value| in a base, without sign or prefix.
std::string IntegerDigits(int64_t value, char type) {
  const uint64_t magnitude =
      value < 0 ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  switch (type) {
    case 'b':
      return fmt::format("{:b}", magnitude);
    case 'o':
      return fmt::format("{:o}", magnitude);
    case 'x':
      return fmt::format("{:x}", magnitude);
    case 'X':
      return fmt::format("{:X}", magnitude);
    default:
      return std::to_string(magnitude);
  }
}

// The digits of |value| as type e, f, g, % or none has them.
std::string FloatDigits(double value, const FormatSpec& spec) {
  const double magnitude = std::fabs(value);
  const bool upper = spec.type == 'E' || spec.type == 'F' || spec.type == 'G';
  if (!std::isfinite(value)) {
    return std::string(std::isnan(value) ? (upper ? "NAN" : "nan") : (upper ? "INF" : "inf")) +
           (spec.type == '%' ? "%" : "");
  }
  const int precision = spec.precision.value_or(6);
  switch (spec.type) {
    case 'e':
      return spec.alternate ? fmt::format("{:#.{}e}", magnitude, precision)
                            : fmt::format("{:.{}e}", magnitude, precision);
    case 'E':
      return spec.alternate ? fmt::format("{:#.{}E}", magnitude, precision)
                            : fmt::format("{:.{}E}", magnitude, precision);
    case 'f':
    case 'F':
      return spec.alternate ? fmt::format("{:#.{}f}", magnitude, precision)
                            : fmt::format("{:.{}f}", magnitude, precision);
    case '%':
      return fmt::format("{:.{}f}%", magnitude * 100, precision);
    case 'g':
    case 'n':
      return spec.alternate ? fmt::format("{:#.{}g}", magnitude, precision)
                            : fmt::format("{:.{}g}", magnitude, precision);
    case 'G':
      return spec.alternate ? fmt::format("{:#.{}G}", magnitude, precision)
                            : fmt::format("{:.{}G}", magnitude, precision);
    default:
      break;
  }
  if (!spec.precision) return FloatRepr(magnitude);
  std::string digits = fmt::format("{:.{}g}", magnitude, std::max(precision, 1));
  if (digits.find_first_of(".e") == std::string::npos) digits += ".0";
  return digits;
}

}  // namespace

void AppendPadded(Text& out, const Text& body, const FormatSpec& spec, char default_align) {
  const auto width = static_cast<size_t>(spec.width);
  const size_t columns = CountCodePoints(body.bytes());
  const size_t padding = width > columns ? width - columns : 0;
  const char align = spec.align == '\0' ? default_align : spec.align;
  const size_t left = align == '<' ? 0 : align == '^' ? padding / 2 : padding;
  for (size_t index = 0; index < left; ++index) out.Append(spec.fill, true);
  out.Append(body);
  for (size_t index = left; index < padding; ++index) out.Append(spec.fill, true);
}

absl::StatusOr<std::string> FormatNumber(const Value& value, const FormatSpec& spec) {
  constexpr std::string_view kIntegerTypes = "bdoxXnc";
  constexpr std::string_view kFloatTypes = "eEfFgGn%";
  const bool integer = value.IsIntegral() &&
                       (spec.type == '\0' || kIntegerTypes.find(spec.type) != std::string::npos);
  if (!integer && spec.type != '\0' && kFloatTypes.find(spec.type) == std::string::npos) {
    return InvalidArgument("unknown format code '{}' for an object of type '{}'", spec.type,
                           TypeName(value));
  }
  const double number = value.number();
  const bool negative = integer ? value.integer() < 0 : std::signbit(number) && !std::isnan(number);
  std::string prefix = negative ? "-" : spec.sign == '-' ? "" : std::string(1, spec.sign);
  std::string digits;
  if (integer && spec.type == 'c') {
    if (value.integer() < 0 || value.integer() > 0x10FFFF) {
      return InvalidArgument("%c needs the number of a character, not {}", value.integer());
    }
    AppendUtf8(digits, static_cast<char32_t>(value.integer()));
  } else if (integer) {
    if (spec.precision && spec.type != '\0' && spec.type != 'd') {
      return InvalidArgument("a precision is not allowed for an integer");
    }
    digits = IntegerDigits(value.integer(), spec.type);
    if (digits.size() < spec.minimum_digits) {
      digits.insert(0, spec.minimum_digits - digits.size(), '0');
    }
    if (spec.alternate &&
        (spec.type == 'b' || spec.type == 'o' || spec.type == 'x' || spec.type == 'X')) {
      prefix += std::string("0") + spec.type;
    }
  } else {
    digits = FloatDigits(number, spec);
  }
  std::string fraction;
  if (spec.grouping != '\0') {
    const size_t whole =
        std::min(digits.find_first_not_of("0123456789abcdefABCDEF"), digits.size());
    const bool decimal = !integer || spec.type == '\0' || spec.type == 'd' || spec.type == 'n';
    const size_t end =
        decimal ? std::min(digits.find_first_not_of("0123456789"), digits.size()) : whole;
    fraction = digits.substr(end);
    digits = Grouped(digits.substr(0, end), spec.grouping, decimal ? 3 : 4);
  }
  digits += fraction;
  FormatSpec padding = spec;
  if (spec.zero && spec.align == '\0') {
    padding.align = '=';
    padding.fill.assign(1, '0');
  }
  if (padding.align == '=') {
    const auto width = static_cast<size_t>(spec.width);
    std::string result = prefix;
    for (size_t size = CountCodePoints(prefix) + CountCodePoints(digits); size < width; ++size) {
      result += padding.fill;
    }
    return result + digits;
  }
  Text out;
  AppendPadded(out, Text(prefix + digits, true), padding, '>');
  return out.bytes();
}

}  // namespace tandem::frontend::jinja
