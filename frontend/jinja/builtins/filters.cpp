#include <algorithm>
#include <cmath>
#include <utility>

#include "frontend/jinja/builtins/builtins.h"
#include "frontend/jinja/builtins/format.h"
#include "frontend/jinja/builtins/operators.h"
#include "frontend/jinja/values/iterate.h"
#include "frontend/jinja/values/numbers.h"
#include "frontend/jinja/values/pieces.h"
#include "frontend/jinja/values/print.h"
#include "frontend/jinja/values/unicode.h"

// Filters of strings and numbers, and the table of all filters.
namespace tandem::frontend::jinja {
namespace {

using Result = absl::StatusOr<Value>;

// A filter that maps str(subject), keeping its mark of safety.
template <typename Map>
Result MapText(Context& context, const Value& subject, Map map) {
  TANDEM_ASSIGN_OR_RETURN(const Text text, ToText(context.sandbox(), subject));
  TANDEM_RETURN_IF_ERROR(ChargeMapping(context.sandbox(), text));
  return context.sandbox().String(map(text), subject.IsString() && subject.markup());
}

// soft_str: a string as it is, anything else as str() has it.
Result SoftString(Context& context, const Value& subject) {
  if (subject.IsString()) return subject;
  return MapText(context, subject, [](const Text& text) { return text; });
}

Result FilterUpper(Context& context, const Value& subject, const Arguments&) {
  return MapText(context, subject, ToUpper);
}
Result FilterLower(Context& context, const Value& subject, const Arguments&) {
  return MapText(context, subject, ToLower);
}
Result FilterCapitalize(Context& context, const Value& subject, const Arguments&) {
  return MapText(context, subject, ToCapitalized);
}

// Unlike str.title, words begin after white space and the characters - ( { [ < only.
Text TitleWords(const Text& text) {
  const std::string_view bytes = text.bytes();
  const auto separates = [](char32_t value) {
    return IsSpace(value) || value == '-' || value == '(' || value == '{' || value == '[' ||
           value == '<';
  };
  Text result;
  size_t offset = 0;
  while (offset < bytes.size()) {
    const CodePoint first = DecodeAt(bytes, offset);
    if (separates(first.value)) {
      result.Append(text, offset, offset + first.length);
      offset += first.length;
      continue;
    }
    size_t end = offset + first.length;
    while (end < bytes.size() && !separates(DecodeAt(bytes, end).value)) {
      end += DecodeAt(bytes, end).length;
    }
    result.Append(ToUpper(text.Slice(offset, offset + first.length)));
    result.Append(ToLower(text.Slice(offset + first.length, end)));
    offset = end;
  }
  return result;
}
Result FilterTitle(Context& context, const Value& subject, const Arguments&) {
  return MapText(context, subject, TitleWords);
}

Result FilterString(Context& context, const Value& subject, const Arguments&) {
  return SoftString(context, subject);
}

Result FilterTrim(Context& context, const Value& subject, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound, Bind("trim", arguments, {"chars"}, 0));
  TANDEM_ASSIGN_OR_RETURN(const Value text, SoftString(context, subject));
  return Strip(context, text, bound.Get(0), true, true);
}

Result FilterReplace(Context& context, const Value& subject, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("replace", arguments, {"old", "new", "count"}, 2));
  Value parts[3] = {subject, bound.Get(0), bound.Get(1)};
  for (Value& part : parts) {
    TANDEM_ASSIGN_OR_RETURN(Text text, ToText(context.sandbox(), part));
    TANDEM_ASSIGN_OR_RETURN(part, context.sandbox().String(std::move(text)));
  }
  int64_t count = -1;
  if (!bound.Get(2).IsNone()) {
    TANDEM_ASSIGN_OR_RETURN(count, bound.Integer(2, -1));
  }
  return Replace(context, parts[0], parts[1], parts[2], count);
}

Result FilterSafe(Context& context, const Value& subject, const Arguments&) {
  TANDEM_ASSIGN_OR_RETURN(Text text, ToText(context.sandbox(), subject));
  return context.sandbox().String(std::move(text), /*markup=*/true);
}
Result FilterEscape(Context& context, const Value& subject, const Arguments&) {
  TANDEM_ASSIGN_OR_RETURN(Text text, EscapedText(context.sandbox(), subject));
  return context.sandbox().String(std::move(text), /*markup=*/true);
}
Result FilterForceEscape(Context& context, const Value& subject, const Arguments&) {
  TANDEM_ASSIGN_OR_RETURN(Text text, ToText(context.sandbox(), subject));
  TANDEM_ASSIGN_OR_RETURN(const Value plain, context.sandbox().String(std::move(text)));
  return FilterEscape(context, plain, {});
}

Result FilterFormat(Context& context, const Value& subject, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const Value format, SoftString(context, subject));
  if (!arguments.named.empty() && !arguments.positional.empty()) {
    return InvalidArgument("format: positional and named arguments cannot be mixed");
  }
  Value values;
  if (arguments.named.empty()) {
    TANDEM_ASSIGN_OR_RETURN(values, context.sandbox().Tuple(arguments.positional));
  } else {
    auto dict = std::make_unique<Dict>();
    for (const auto& [name, value] : arguments.named) {
      TANDEM_ASSIGN_OR_RETURN(const Value key, context.sandbox().String(name, true));
      dict->Set(key, value);
    }
    TANDEM_ASSIGN_OR_RETURN(values, context.sandbox().Take(std::move(dict)));
  }
  return FormatPercent(context.sandbox(), format, values);
}

Result FilterCenter(Context& context, const Value& subject, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound, Bind("center", arguments, {"width"}, 0));
  TANDEM_ASSIGN_OR_RETURN(const int64_t width, bound.Integer(0, 80));
  TANDEM_ASSIGN_OR_RETURN(const Value text, SoftString(context, subject));
  Arguments call;
  call.positional.push_back(Value::Int(width));
  return FindStringMethod("center")(context, text, call);
}

Result FilterIndent(Context& context, const Value& subject, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("indent", arguments, {"width", "first", "blank"}, 0));
  if (!subject.IsString()) return InvalidArgument("indent: takes a str, not {}", TypeName(subject));
  Text indention(std::string(4, ' '), true);
  if (bound.Has(0) && bound.Get(0).IsString()) {
    indention = bound.Get(0).text();
  } else if (bound.Has(0)) {
    TANDEM_ASSIGN_OR_RETURN(const int64_t width, bound.Integer(0, 4));
    const int64_t columns = std::max<int64_t>(width, 0);
    TANDEM_RETURN_IF_ERROR(context.sandbox().CheckStringSize(static_cast<size_t>(columns)));
    TANDEM_RETURN_IF_ERROR(context.sandbox().Charge(columns / 64));
    indention = Text(std::string(static_cast<size_t>(columns), ' '), true);
  }
  const bool blank = bound.Truth(2, false);
  Text source = subject.text();
  source.Append("\n", true);
  Text out;
  if (bound.Truth(1, false)) out.Append(indention);
  const std::vector<Piece> lines = SplitLines(source.bytes(), false);
  TANDEM_RETURN_IF_ERROR(context.sandbox().Charge(static_cast<int64_t>(lines.size())));
  for (size_t index = 0; index < lines.size(); ++index) {
    if (index != 0) {
      out.Append("\n", true);
      if (blank || lines[index].end > lines[index].begin) out.Append(indention);
    }
    out.Append(source, lines[index].begin, lines[index].end);
    TANDEM_RETURN_IF_ERROR(context.sandbox().CheckStringSize(out.size()));
  }
  return context.sandbox().String(std::move(out), subject.markup());
}

Result FilterTruncate(Context& context, const Value& subject, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("truncate", arguments, {"length", "killwords", "end", "leeway"}, 0));
  TANDEM_ASSIGN_OR_RETURN(const int64_t length, bound.Integer(0, 255));
  TANDEM_ASSIGN_OR_RETURN(const int64_t leeway,
                          bound.Get(3).IsNone() ? absl::StatusOr<int64_t>(5) : bound.Integer(3, 5));
  const Text end =
      bound.Has(2) && bound.Get(2).IsString() ? bound.Get(2).text() : Text("...", true);
  const auto end_size = static_cast<int64_t>(end.CodePoints());
  if (!subject.IsString()) {
    return InvalidArgument("truncate: takes a str, not {}", TypeName(subject));
  }
  if (length < end_size || leeway < 0) {
    return InvalidArgument("truncate: the length must hold the end, and leeway not be negative");
  }
  const auto size = static_cast<int64_t>(subject.text().CodePoints());
  if (size - leeway <= length) return subject;
  size_t cut = subject.text().OffsetOf(static_cast<size_t>(length - end_size));
  if (!bound.Truth(1, false)) {
    const size_t space = std::string_view(subject.bytes()).substr(0, cut).rfind(' ');
    cut = space == std::string::npos ? cut : space;
  }
  Text out = subject.text().Slice(0, cut);
  out.Append(end);
  return context.sandbox().String(std::move(out), subject.markup());
}

Result FilterWordCount(Context& context, const Value& subject, const Arguments&) {
  TANDEM_ASSIGN_OR_RETURN(const Text text, ToText(context.sandbox(), subject));
  TANDEM_RETURN_IF_ERROR(context.sandbox().Charge(static_cast<int64_t>(text.size() / 4)));
  int64_t words = 0;
  bool inside = false;
  for (size_t offset = 0; offset < text.size();) {
    const CodePoint point = DecodeAt(text.bytes(), offset);
    const bool word = point.value == '_' || IsAlpha(point.value) || IsDecimal(point.value);
    words += word && !inside;
    inside = word;
    offset += point.length;
  }
  return Value::Int(words);
}

// urllib.parse.quote: in queries a slash is quoted too, and a space becomes a plus sign.
absl::Status AppendQuoted(Sandbox& sandbox, Text& out, const Text& text, bool query) {
  TANDEM_RETURN_IF_ERROR(sandbox.Charge(static_cast<int64_t>(text.size())));
  for (size_t offset = 0; offset < text.size(); ++offset) {
    const auto byte = static_cast<unsigned char>(text.bytes()[offset]);
    const bool plain = (byte >= '0' && byte <= '9') || (byte >= 'A' && byte <= 'Z') ||
                       (byte >= 'a' && byte <= 'z') || byte == '_' || byte == '.' || byte == '-' ||
                       byte == '~' || (byte == '/' && !query);
    out.Append(plain                  ? std::string(1, static_cast<char>(byte))
               : byte == ' ' && query ? "+"
                                      : fmt::format("%{:02X}", byte),
               text.TrustedAt(offset));
  }
  return absl::OkStatus();
}

Result FilterUrlEncode(Context& context, const Value& subject, const Arguments&) {
  Sandbox& sandbox = context.sandbox();
  Text out;
  if (subject.IsString() || !IsIterable(subject)) {
    TANDEM_ASSIGN_OR_RETURN(const Text text, ToText(sandbox, subject));
    TANDEM_RETURN_IF_ERROR(AppendQuoted(sandbox, out, text, false));
    return sandbox.String(std::move(out));
  }
  Value pairs = subject;
  if (subject.is(Type::kDict)) {
    TANDEM_ASSIGN_OR_RETURN(pairs,
                            sandbox.Make<DictView>(subject.as<Dict>(), DictView::Part::kItems));
  }
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(sandbox, pairs));
  for (const Value& item : items) {
    TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> parts, Items(sandbox, item));
    if (parts.size() != 2) return InvalidArgument("urlencode: takes a str, a dict or pairs");
    TANDEM_ASSIGN_OR_RETURN(const Text key, ToText(sandbox, parts[0]));
    TANDEM_ASSIGN_OR_RETURN(const Text value, ToText(sandbox, parts[1]));
    out.Append(out.empty() ? "" : "&", true);
    TANDEM_RETURN_IF_ERROR(AppendQuoted(sandbox, out, key, true));
    out.Append("=", true);
    TANDEM_RETURN_IF_ERROR(AppendQuoted(sandbox, out, value, true));
    TANDEM_RETURN_IF_ERROR(sandbox.CheckStringSize(out.size()));
  }
  return sandbox.String(std::move(out));
}

Result FilterDefault(Context& context, const Value& subject, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("default", arguments, {"default_value", "boolean"}, 0));
  const bool replaced = subject.IsUndefined() || (bound.Truth(1, false) && !IsTruthy(subject));
  if (!replaced) return subject;
  return bound.Has(0) ? Result(bound.Get(0)) : context.sandbox().String("", true);
}

Result FilterLength(Context&, const Value& subject, const Arguments&) {
  TANDEM_ASSIGN_OR_RETURN(const int64_t length, Length(subject));
  return Value::Int(length);
}

Result FilterAttribute(Context& context, const Value& subject, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound, Bind("attr", arguments, {"name"}, 1));
  const Value name = bound.Get(0);
  if (!name.IsString()) {
    return InvalidArgument("attr: the name must be a str, not {}", TypeName(name));
  }
  if (subject.is(Type::kDict) && FindMethod(subject, name.bytes()) == nullptr) {
    return Value::Undefined(fmt::format("'dict object' has no attribute '{}'", name.bytes()));
  }
  return context.GetAttribute(subject, name.bytes());
}

absl::Status NeedNumber(std::string_view filter, const Value& subject) {
  return subject.IsNumber()
             ? absl::OkStatus()
             : InvalidArgument("{}: takes a number, not {}", filter, TypeName(subject));
}

Result FilterAbs(Context&, const Value& subject, const Arguments&) {
  TANDEM_RETURN_IF_ERROR(NeedNumber("abs", subject));
  if (subject.is(Type::kFloat)) return Value::Float(std::fabs(subject.number()), subject.trusted());
  return subject.integer() < 0 ? Negate(subject) : Plus(subject);
}

Result FilterRound(Context& context, const Value& subject, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("round", arguments, {"precision", "method"}, 0));
  TANDEM_RETURN_IF_ERROR(NeedNumber("round", subject));
  TANDEM_ASSIGN_OR_RETURN(const int64_t precision, bound.Integer(0, 0));
  TANDEM_RETURN_IF_ERROR(context.sandbox().Charge(FloatSteps(subject.number(), precision)));
  const std::string method =
      bound.Has(1) && bound.Get(1).IsString() ? bound.Get(1).bytes() : "common";
  if (method == "common") {
    if (subject.is(Type::kFloat)) {
      return Value::Float(RoundFloat(subject.number(), precision), subject.trusted());
    }
    TANDEM_ASSIGN_OR_RETURN(const int64_t rounded, RoundInteger(subject.integer(), precision));
    return Value::Int(rounded, subject.trusted());
  }
  if (method != "ceil" && method != "floor") {
    return InvalidArgument("round: the method must be common, ceil or floor, not {}", method);
  }
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = subject.number() * scale;
  return Value::Float((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale,
                      subject.trusted());
}

absl::StatusOr<std::optional<int64_t>> Truncated(std::optional<double> number) {
  if (!number || std::isnan(*number)) return std::optional<int64_t>();
  const double whole = std::trunc(*number);
  if (!(std::fabs(whole) < 9.2e18)) {
    return InvalidArgument("int: the number does not fit a 64-bit integer");
  }
  return std::optional<int64_t>(static_cast<int64_t>(whole));
}

Result FilterInt(Context&, const Value& subject, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("int", arguments, {"default", "base"}, 0));
  if (subject.IsUndefined()) return InvalidArgument("{}", subject.reason());
  std::optional<int64_t> number;
  if (subject.IsIntegral()) {
    number = subject.integer();
  } else if (subject.is(Type::kFloat)) {
    TANDEM_ASSIGN_OR_RETURN(number, Truncated(subject.number()));
  } else if (subject.IsString()) {
    TANDEM_ASSIGN_OR_RETURN(const int64_t base, bound.Integer(1, 10));
    TANDEM_ASSIGN_OR_RETURN(number, ParseInteger(subject.bytes(), base));
    if (!number) {
      const std::optional<double> parsed = ParseFloat(subject.bytes());
      if (!parsed || !std::isinf(*parsed)) {
        TANDEM_ASSIGN_OR_RETURN(number, Truncated(parsed));
      }
    }
  }
  if (number) return Value::Int(*number, AllTrusted(subject));
  return bound.Has(0) ? bound.Get(0) : Value::Int(0, true);
}

Result FilterFloat(Context&, const Value& subject, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound, Bind("float", arguments, {"default"}, 0));
  if (subject.IsUndefined()) return InvalidArgument("{}", subject.reason());
  std::optional<double> number;
  if (subject.IsNumber()) {
    number = subject.number();
  } else if (subject.IsString()) {
    number = ParseFloat(subject.bytes());
  }
  if (number) return Value::Float(*number, AllTrusted(subject));
  return bound.Has(0) ? bound.Get(0) : Value::Float(0.0, true);
}

constexpr int64_t kMaxJsonIndent = 64;

// As transformers defines it for chat templates.
Result FilterToJson(Context& context, const Value& subject, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(
      const BoundArguments bound,
      Bind("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"}, 0));
  JsonStyle style;
  style.ensure_ascii = bound.Truth(0, false);
  style.sort_keys = bound.Truth(3, false);
  if (!bound.Get(1).IsNone()) {
    style.item_separator.assign(1, ',');
    if (bound.Get(1).IsString()) {
      style.indent = bound.Get(1).bytes();
    } else {
      TANDEM_ASSIGN_OR_RETURN(const int64_t width, bound.Integer(1, 0));
      style.indent =
          std::string(static_cast<size_t>(std::clamp<int64_t>(width, 0, kMaxJsonIndent + 1)), ' ');
    }
    if (style.indent->size() > kMaxJsonIndent) {
      return ResourceExhausted("tojson: an indent of more than {}", kMaxJsonIndent);
    }
  }
  if (!bound.Get(2).IsNone()) {
    TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> separators,
                            Items(context.sandbox(), bound.Get(2)));
    if (separators.size() != 2 || !separators[0].IsString() || !separators[1].IsString()) {
      return InvalidArgument("tojson: separators must be two strings");
    }
    style.item_separator = separators[0].bytes();
    style.key_separator = separators[1].bytes();
  }
  TANDEM_ASSIGN_OR_RETURN(Text text, ToJson(context.sandbox(), subject, style));
  return context.sandbox().String(std::move(text));
}

constexpr std::pair<std::string_view, Filter> kFilters[] = {
    {"abs", FilterAbs},
    {"attr", FilterAttribute},
    {"capitalize", FilterCapitalize},
    {"center", FilterCenter},
    {"count", FilterLength},
    {"d", FilterDefault},
    {"default", FilterDefault},
    {"e", FilterEscape},
    {"escape", FilterEscape},
    {"float", FilterFloat},
    {"forceescape", FilterForceEscape},
    {"format", FilterFormat},
    {"indent", FilterIndent},
    {"int", FilterInt},
    {"length", FilterLength},
    {"lower", FilterLower},
    {"replace", FilterReplace},
    {"round", FilterRound},
    {"safe", FilterSafe},
    {"string", FilterString},
    {"title", FilterTitle},
    {"tojson", FilterToJson},
    {"trim", FilterTrim},
    {"truncate", FilterTruncate},
    {"upper", FilterUpper},
    {"urlencode", FilterUrlEncode},
    {"wordcount", FilterWordCount},
};

}  // namespace

Filter FindFilter(std::string_view name) {
  const auto* const found = std::find_if(std::begin(kFilters), std::end(kFilters),
                                         [&](const auto& entry) { return entry.first == name; });
  return found == std::end(kFilters) ? FindSequenceFilter(name) : found->second;
}

}  // namespace tandem::frontend::jinja
