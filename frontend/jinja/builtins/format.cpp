#include "frontend/jinja/builtins/format.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "frontend/jinja/values/print.h"

namespace tandem::frontend::jinja {
namespace {

constexpr int64_t kMaxWidth = 100'000;
constexpr int kMaxPrecision = 500;

constexpr size_t kTextBytesPerStep = 16;  // of a text that is counted and copied
constexpr int64_t kPaddingPerStep = 4;    // columns
constexpr int64_t kFieldSteps = 3;        // of reading a field of a format

// Fuel for writing a number.
absl::Status ChargeNumber(Sandbox& sandbox, const Value& number, const FormatSpec& spec) {
  return sandbox.Charge(1 + spec.width / kPaddingPerStep +
                        FloatSteps(number.number(), spec.precision.value_or(0)));
}

bool IsDigit(char character) { return character >= '0' && character <= '9'; }

// Reads digits at `offset`, moving it behind them; nothing if there are none.
std::optional<int64_t> ReadNumber(std::string_view text, size_t& offset) {
  if (offset >= text.size() || !IsDigit(text[offset])) return std::nullopt;
  int64_t number = 0;
  while (offset < text.size() && IsDigit(text[offset])) {
    number = std::min<int64_t>(number * 10 + (text[offset++] - '0'), kMaxWidth + 1);
  }
  return number;
}

absl::Status CheckWidth(int64_t width, std::optional<int> precision) {
  if (width > kMaxWidth || precision.value_or(0) > kMaxPrecision) {
    return ResourceExhausted("a field is wider than {} or more precise than {}", kMaxWidth,
                             kMaxPrecision);
  }
  return absl::OkStatus();
}

absl::StatusOr<FormatSpec> ParseSpec(std::string_view text) {
  FormatSpec spec;
  size_t offset = 0;
  const auto is_align = [](char character) {
    return std::string_view("<>=^").find(character) != std::string_view::npos;
  };
  if (!text.empty()) {
    const size_t fill = DecodeAt(text, 0).length;
    if (fill < text.size() && is_align(text[fill])) {
      spec.fill = std::string(text.substr(0, fill));
      spec.align = text[fill];
      offset = fill + 1;
    } else if (is_align(text[0])) {
      spec.align = text[0];
      offset = 1;
    }
  }
  const auto at = [&](std::string_view wanted) {
    return offset < text.size() && wanted.find(text[offset]) != std::string_view::npos;
  };
  if (at("+- ")) spec.sign = text[offset++];
  if (at("#")) {
    spec.alternate = true;
    ++offset;
  }
  if (at("0")) {
    spec.zero = true;
    ++offset;
  }
  spec.width = ReadNumber(text, offset).value_or(0);
  if (at(",_")) spec.grouping = text[offset++];
  if (at(".")) {
    ++offset;
    const auto precision = ReadNumber(text, offset);
    if (!precision) {
      return InvalidArgument("the format specification '{}' lacks digits after '.'", text);
    }
    spec.precision = static_cast<int>(std::min<int64_t>(*precision, kMaxPrecision + 1));
  }
  if (offset < text.size()) spec.type = text[offset++];
  if (offset != text.size()) return InvalidArgument("'{}' is not a format specification", text);
  TANDEM_RETURN_IF_ERROR(CheckWidth(spec.width, spec.precision));
  return spec;
}

// A string under a specification: precision cuts, width pads.
absl::Status AppendString(Sandbox& sandbox, Text& out, const Text& text, const FormatSpec& spec) {
  TANDEM_RETURN_IF_ERROR(sandbox.Charge(
      static_cast<int64_t>(1 + text.size() / kTextBytesPerStep + spec.width / kPaddingPerStep)));
  Text body = text;
  if (spec.precision) {
    const size_t kept = std::min<size_t>(static_cast<size_t>(*spec.precision), text.CodePoints());
    body = text.Slice(0, text.OffsetOf(kept));
  }
  AppendPadded(out, body, spec, '<');
  return absl::OkStatus();
}

// One field of str.format: format(value, spec).
absl::Status AppendFormatted(Sandbox& sandbox, Text& out, const Value& value,
                             std::string_view spec_text) {
  if (spec_text.empty()) {
    TANDEM_ASSIGN_OR_RETURN(const Text text, ToText(sandbox, value));
    TANDEM_RETURN_IF_ERROR(sandbox.Charge(static_cast<int64_t>(text.size() / kTextBytesPerStep)));
    out.Append(text);
    return sandbox.CheckStringSize(out.size());
  }
  TANDEM_ASSIGN_OR_RETURN(FormatSpec spec, ParseSpec(spec_text));
  if (value.IsString()) {
    if ((spec.type != '\0' && spec.type != 's') || spec.align == '=') {
      return InvalidArgument("the format specification '{}' does not fit a str", spec_text);
    }
    if (spec.zero && spec.align == '\0') spec.fill.assign(1, '0');
    TANDEM_RETURN_IF_ERROR(AppendString(sandbox, out, value.text(), spec));
  } else if (value.IsNumber()) {
    TANDEM_RETURN_IF_ERROR(ChargeNumber(sandbox, value, spec));
    TANDEM_ASSIGN_OR_RETURN(std::string number, FormatNumber(value, spec));
    out.Append(number, value.trusted());
  } else {
    return InvalidArgument("the format specification '{}' does not fit a {}", spec_text,
                           TypeName(value));
  }
  return sandbox.CheckStringSize(out.size());
}

// Reads "{...}" fields of str.format.
class BraceFormatter {
 public:
  BraceFormatter(Context& context, const Value& format, const Arguments& arguments)
      : context_(context), format_(format), arguments_(arguments) {}

  absl::Status Run(const Text& text, int depth, Text& out) {
    const std::string_view bytes = text.bytes();
    size_t offset = 0;
    while (offset < bytes.size()) {
      TANDEM_RETURN_IF_ERROR(context_.sandbox().Charge(1));
      const size_t brace = std::min(bytes.find_first_of("{}", offset), bytes.size());
      out.Append(text, offset, brace);
      if (brace == bytes.size()) break;
      if (brace + 1 < bytes.size() && bytes[brace + 1] == bytes[brace]) {
        out.Append(text, brace, brace + 1);
        offset = brace + 2;
        continue;
      }
      if (bytes[brace] == '}') return InvalidArgument("format(): single '}}' in the format string");
      const size_t end = FieldEnd(bytes, brace + 1);
      if (end == std::string_view::npos) {
        return InvalidArgument("format(): '{{' without '}}' in the format string");
      }
      TANDEM_RETURN_IF_ERROR(Field(text.Slice(brace + 1, end), depth, out));
      offset = end + 1;
    }
    return absl::OkStatus();
  }

 private:
  static size_t FieldEnd(std::string_view bytes, size_t offset) {
    int open = 1;
    for (; offset < bytes.size(); ++offset) {
      open += bytes[offset] == '{' ? 1 : bytes[offset] == '}' ? -1 : 0;
      if (open == 0) return offset;
    }
    return std::string_view::npos;
  }

  absl::Status Field(const Text& field, int depth, Text& out) {
    if (depth > 1) return InvalidArgument("format(): fields are nested too deep");
    const std::string_view bytes = field.bytes();
    TANDEM_RETURN_IF_ERROR(context_.sandbox().Charge(
        kFieldSteps + static_cast<int64_t>(bytes.size() / kTextBytesPerStep)));
    const size_t name_end = std::min(NameEnd(bytes), bytes.size());
    TANDEM_ASSIGN_OR_RETURN(Value value, Lookup(bytes.substr(0, name_end)));
    size_t offset = name_end;
    if (offset < bytes.size() && bytes[offset] == '!') {
      const char conversion = offset + 1 < bytes.size() ? bytes[offset + 1] : '\0';
      if (conversion != 'r' && conversion != 's') {
        return InvalidArgument("format(): unknown conversion '!{}'", conversion);
      }
      TANDEM_ASSIGN_OR_RETURN(Text text, conversion == 'r' ? Repr(context_.sandbox(), value)
                                                           : ToText(context_.sandbox(), value));
      TANDEM_ASSIGN_OR_RETURN(value, context_.sandbox().String(std::move(text)));
      offset += 2;
    }
    Text spec;
    if (offset < bytes.size()) {
      if (bytes[offset] != ':') {
        return InvalidArgument("format(): expected ':' after the conversion in '{}'", bytes);
      }
      TANDEM_RETURN_IF_ERROR(Run(field.Slice(offset + 1, bytes.size()), depth + 1, spec));
    }
    if (format_.markup()) {
      TANDEM_ASSIGN_OR_RETURN(Text escaped, EscapedText(context_.sandbox(), value));
      TANDEM_ASSIGN_OR_RETURN(value, context_.sandbox().String(std::move(escaped)));
    }
    return AppendFormatted(context_.sandbox(), out, value, spec.bytes());
  }

  // Names end at "!" or ":" outside of square brackets.
  static size_t NameEnd(std::string_view bytes) {
    bool bracket = false;
    for (size_t offset = 0; offset < bytes.size(); ++offset) {
      bracket = bytes[offset] == '[' || (bracket && bytes[offset] != ']');
      if (!bracket && (bytes[offset] == '!' || bytes[offset] == ':')) return offset;
    }
    return bytes.size();
  }

  absl::StatusOr<Value> Lookup(std::string_view name) {
    const size_t first_end = std::min(name.find_first_of(".["), name.size());
    TANDEM_ASSIGN_OR_RETURN(Value value, Argument(name.substr(0, first_end)));
    size_t offset = first_end;
    while (offset < name.size()) {
      if (name[offset] == '.') {
        const size_t end = std::min(name.find_first_of(".[", offset + 1), name.size());
        TANDEM_ASSIGN_OR_RETURN(
            value, context_.GetAttribute(value, name.substr(offset + 1, end - offset - 1)));
        offset = end;
        continue;
      }
      const size_t end = name.find(']', offset);
      if (name[offset] != '[' || end == std::string_view::npos) {
        return InvalidArgument("format(): '{}' is not a field name", name);
      }
      const std::string_view key = name.substr(offset + 1, end - offset - 1);
      size_t digits = 0;
      const auto number = ReadNumber(key, digits);
      Value index = Value::Int(number.value_or(0));
      if (!number || digits != key.size()) {
        TANDEM_ASSIGN_OR_RETURN(index, context_.sandbox().String(std::string(key), true));
      }
      TANDEM_ASSIGN_OR_RETURN(value, context_.GetItem(value, index));
      offset = end + 1;
    }
    return value;
  }

  absl::StatusOr<Value> Argument(std::string_view name) {
    size_t digits = 0;
    std::optional<int64_t> index = ReadNumber(name, digits);
    if (name.empty()) {
      index = next_++;
    } else if (!index || digits != name.size()) {
      constexpr size_t kNamesPerStep = 16;
      TANDEM_RETURN_IF_ERROR(
          context_.sandbox().Charge(static_cast<int64_t>(arguments_.named.size() / kNamesPerStep)));
      for (const auto& [key, value] : arguments_.named) {
        if (key == name) return value;
      }
      return InvalidArgument("format(): no argument named '{}'", name);
    }
    if (*index >= static_cast<int64_t>(arguments_.positional.size())) {
      return InvalidArgument("format(): there is no argument number {}", *index);
    }
    return arguments_.positional[static_cast<size_t>(*index)];
  }

  Context& context_;
  const Value& format_;
  const Arguments& arguments_;
  int64_t next_ = 0;
};

}  // namespace

namespace {

// Reads "%..." conversions.
class PercentFormatter {
 public:
  PercentFormatter(Sandbox& sandbox, const Value& format, const Value& values)
      : sandbox_(sandbox), format_(format), values_(values) {}

  absl::StatusOr<Value> Run() {
    const Text& text = format_.text();
    const std::string_view bytes = text.bytes();
    Text out;
    size_t offset = 0;
    while (offset < bytes.size()) {
      const size_t percent = std::min(bytes.find('%', offset), bytes.size());
      out.Append(text, offset, percent);
      offset = percent;
      TANDEM_RETURN_IF_ERROR(sandbox_.Charge(kFieldSteps));
      if (offset < bytes.size()) {
        ++offset;
        TANDEM_RETURN_IF_ERROR(Conversion(bytes, offset, percent, out));
      }
      TANDEM_RETURN_IF_ERROR(sandbox_.CheckStringSize(out.size()));
    }
    // What could be indexed passes for a mapping, of which not all need be used.
    const bool unused = values_.is(Type::kTuple)
                            ? used_ < values_.as<Sequence>().items.size()
                            : used_ == 0 && !values_.is(Type::kDict) && !values_.is(Type::kList) &&
                                  !values_.is(Type::kRange) && !values_.IsUndefined();
    if (unused) return InvalidArgument("not all arguments were converted during string formatting");
    return sandbox_.String(std::move(out), format_.markup());
  }

 private:
  absl::Status Conversion(std::string_view bytes, size_t& offset, size_t percent, Text& out) {
    std::optional<std::string_view> key;
    if (offset < bytes.size() && bytes[offset] == '(') {
      const size_t end = bytes.find(')', offset);
      if (end == std::string_view::npos) {
        return InvalidArgument("incomplete format key in '{}'", bytes);
      }
      key = bytes.substr(offset + 1, end - offset - 1);
      offset = end + 1;
    }
    FormatSpec spec;
    spec.align = '>';
    for (; offset < bytes.size() &&
           std::string_view("-+ #0").find(bytes[offset]) != std::string_view::npos;
         ++offset) {
      switch (bytes[offset]) {
        case '-':
          spec.align = '<';
          break;
        case '#':
          spec.alternate = true;
          break;
        case '0':
          spec.zero = true;
          break;
        default:
          spec.sign = spec.sign == '+' ? '+' : bytes[offset];
      }
    }
    TANDEM_ASSIGN_OR_RETURN(spec.width, WidthOr(bytes, offset, 0));
    if (spec.width < 0) {
      spec.align = '<';
      spec.width = -spec.width;
    }
    if (offset < bytes.size() && bytes[offset] == '.') {
      ++offset;
      TANDEM_ASSIGN_OR_RETURN(const int64_t precision, WidthOr(bytes, offset, 0));
      spec.precision = static_cast<int>(std::clamp<int64_t>(precision, 0, kMaxPrecision + 1));
    }
    TANDEM_RETURN_IF_ERROR(CheckWidth(spec.width, spec.precision));
    while (offset < bytes.size() &&
           std::string_view("hlL").find(bytes[offset]) != std::string_view::npos) {
      ++offset;
    }
    if (offset >= bytes.size()) return InvalidArgument("incomplete format in '{}'", bytes);
    spec.type = bytes[offset++];
    if (spec.type == '%') {
      out.Append("%", format_.text().TrustedAt(percent));
      return absl::OkStatus();
    }
    TANDEM_ASSIGN_OR_RETURN(const Value value, key ? Named(*key) : Next());
    return Append(spec, value, out);
  }

  absl::StatusOr<int64_t> WidthOr(std::string_view bytes, size_t& offset, int64_t missing) {
    if (offset < bytes.size() && bytes[offset] == '*') {
      ++offset;
      TANDEM_ASSIGN_OR_RETURN(const Value width, Next());
      if (!width.IsIntegral()) return InvalidArgument("* wants an int");
      return std::clamp(width.integer(), -kMaxWidth - 1, kMaxWidth + 1);
    }
    return ReadNumber(bytes, offset).value_or(missing);
  }

  absl::StatusOr<Value> Next() {
    if (values_.is(Type::kTuple)) {
      const std::vector<Value>& items = values_.as<Sequence>().items;
      if (used_ >= items.size()) {
        return InvalidArgument("not enough arguments for the format string");
      }
      return items[used_++];
    }
    if (used_++ != 0) return InvalidArgument("not enough arguments for the format string");
    return values_;
  }

  absl::StatusOr<Value> Named(std::string_view key) {
    if (!values_.is(Type::kDict)) return InvalidArgument("the format string requires a mapping");
    TANDEM_RETURN_IF_ERROR(sandbox_.Charge(static_cast<int64_t>(key.size() / kTextBytesPerStep)));
    const Value* value = values_.as<Dict>().Find(key);
    if (value == nullptr) {
      return InvalidArgument("the format string names '{}', which the mapping lacks", key);
    }
    return *value;
  }

  absl::Status Append(FormatSpec spec, const Value& value, Text& out) {
    if (spec.type == 's' || spec.type == 'r' || spec.type == 'a') {
      TANDEM_ASSIGN_OR_RETURN(Text text, spec.type != 's'   ? Repr(sandbox_, value)
                                         : format_.markup() ? EscapedText(sandbox_, value)
                                                            : ToText(sandbox_, value));
      return AppendString(sandbox_, out, text, spec);
    }
    if (spec.type == 'c' && value.IsString() && CountCodePoints(value.bytes()) == 1) {
      return AppendString(sandbox_, out, value.text(), spec);
    }
    spec.type = spec.type == 'i' || spec.type == 'u' ? 'd' : spec.type;
    constexpr std::string_view kTypes = "dxXoeEfFgGc";
    if (kTypes.find(spec.type) == std::string_view::npos) {
      return InvalidArgument("unsupported format character '{}'", spec.type);
    }
    if (!value.IsNumber()) {
      return InvalidArgument("%{} format: a number is required, not {}", spec.type,
                             TypeName(value));
    }
    Value number = value;
    if (spec.type == 'd' && value.is(Type::kFloat)) {
      const double whole = std::trunc(value.number());
      if (!(std::fabs(whole) < 9e18)) {
        return InvalidArgument("%d: the number does not fit a 64-bit integer");
      }
      number = Value::Int(static_cast<int64_t>(whole), value.trusted());
    }
    if (spec.zero && spec.align != '<') spec.align = '\0';
    constexpr std::string_view kIntegerTypes = "dxXo";
    if (number.IsIntegral() && kIntegerTypes.find(spec.type) != std::string_view::npos) {
      spec.minimum_digits = static_cast<size_t>(spec.precision.value_or(0));
      spec.precision.reset();
    }
    TANDEM_RETURN_IF_ERROR(ChargeNumber(sandbox_, value, spec));
    TANDEM_ASSIGN_OR_RETURN(std::string text, FormatNumber(number, spec));
    out.Append(text, value.trusted());
    return absl::OkStatus();
  }

  Sandbox& sandbox_;
  const Value& format_;
  const Value& values_;
  size_t used_ = 0;
};

}  // namespace

absl::StatusOr<Value> FormatPercent(Sandbox& sandbox, const Value& format, const Value& values) {
  return PercentFormatter(sandbox, format, values).Run();
}

absl::StatusOr<Value> FormatBraces(Context& context, const Value& format,
                                   const Arguments& arguments) {
  Text out;
  TANDEM_RETURN_IF_ERROR(BraceFormatter(context, format, arguments).Run(format.text(), 0, out));
  return context.sandbox().String(std::move(out), format.markup());
}

}  // namespace tandem::frontend::jinja
