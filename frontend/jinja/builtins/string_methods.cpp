#include <algorithm>
#include <functional>
#include <limits>
#include <unordered_set>
#include <utility>

#include "frontend/jinja/builtins/builtins.h"
#include "frontend/jinja/builtins/format.h"
#include "frontend/jinja/builtins/operators.h"
#include "frontend/jinja/values/iterate.h"
#include "frontend/jinja/values/pieces.h"
#include "frontend/jinja/values/print.h"
#include "frontend/jinja/values/search.h"
#include "frontend/jinja/values/unicode.h"

// Methods of strings. Every character of a result keeps its origin.
namespace tandem::frontend::jinja {
namespace {

using Result = absl::StatusOr<Value>;

absl::Status NeedString(std::string_view method, const Value& value) {
  return value.IsString() ? absl::OkStatus()
                          : InvalidArgument("{}() takes a str, not {}", method, TypeName(value));
}

Result Part(Context& context, const Value& self, size_t begin, size_t end) {
  return context.sandbox().String(self.text().Slice(begin, end), self.markup());
}

Result StripWith(Context& context, const Value& self, const Arguments& arguments, bool left,
                 bool right) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound, Bind("strip", arguments, {"chars"}, 0));
  return Strip(context, self, bound.Get(0), left, right);
}
Result StringStrip(Context& context, const Value& self, const Arguments& arguments) {
  return StripWith(context, self, arguments, true, true);
}
Result StringLeftStrip(Context& context, const Value& self, const Arguments& arguments) {
  return StripWith(context, self, arguments, true, false);
}
Result StringRightStrip(Context& context, const Value& self, const Arguments& arguments) {
  return StripWith(context, self, arguments, false, true);
}

template <Text (*Map)(const Text&)>
Result StringMap(Context& context, const Value& self, const Arguments& arguments) {
  TANDEM_RETURN_IF_ERROR(Bind("this method", arguments, {}, 0).status());
  TANDEM_RETURN_IF_ERROR(ChargeMapping(context.sandbox(), self.text()));
  return context.sandbox().String(Map(self.text()), self.markup());
}

Result PieceList(Context& context, const Value& self, const std::vector<Piece>& pieces) {
  std::vector<Value> parts;
  for (const auto& [begin, end] : pieces) {
    TANDEM_ASSIGN_OR_RETURN(Value part, Part(context, self, begin, end));
    parts.push_back(std::move(part));
  }
  return context.sandbox().List(std::move(parts));
}

Result SplitWith(Context& context, const Value& self, const Arguments& arguments, bool from_right) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("split", arguments, {"sep", "maxsplit"}, 0));
  TANDEM_ASSIGN_OR_RETURN(const int64_t most, bound.Integer(1, -1));
  const Value separator = bound.Get(0);
  if (separator.IsNone()) {
    return PieceList(context, self, SplitAtSpace(self.bytes(), most, from_right));
  }
  TANDEM_RETURN_IF_ERROR(NeedString("split", separator));
  if (separator.bytes().empty()) return InvalidArgument("split(): empty separator");
  TANDEM_ASSIGN_OR_RETURN(
      const std::vector<Piece> pieces,
      SplitAtText(context.sandbox(), self.bytes(), separator.bytes(), most, from_right));
  return PieceList(context, self, pieces);
}
Result StringSplit(Context& context, const Value& self, const Arguments& arguments) {
  return SplitWith(context, self, arguments, false);
}
Result StringRightSplit(Context& context, const Value& self, const Arguments& arguments) {
  return SplitWith(context, self, arguments, true);
}

Result StringSplitLines(Context& context, const Value& self, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("splitlines", arguments, {"keepends"}, 0));
  return PieceList(context, self, SplitLines(self.bytes(), bound.Truth(0, false)));
}

Result Partition(Context& context, const Value& self, const Arguments& arguments, bool from_right) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound, Bind("partition", arguments, {"sep"}, 1));
  const Value separator = bound.Get(0);
  TANDEM_RETURN_IF_ERROR(NeedString("partition", separator));
  if (separator.bytes().empty()) return InvalidArgument("partition(): empty separator");
  const std::string& bytes = self.bytes();
  TANDEM_ASSIGN_OR_RETURN(const TextSearch search,
                          TextSearch::Make(context.sandbox(), separator.bytes(), bytes.size()));
  size_t found = from_right ? search.Last(bytes, bytes.size()) : search.First(bytes);
  size_t after = found + separator.bytes().size();
  if (found == std::string::npos) found = after = from_right ? 0 : bytes.size();
  std::vector<Value> parts;
  for (const auto& [begin, end] :
       {std::pair(size_t{0}, found), std::pair(found, after), std::pair(after, bytes.size())}) {
    TANDEM_ASSIGN_OR_RETURN(Value part, Part(context, self, begin, end));
    parts.push_back(std::move(part));
  }
  return context.sandbox().Tuple(std::move(parts));
}
Result StringPartition(Context& context, const Value& self, const Arguments& arguments) {
  return Partition(context, self, arguments, false);
}
Result StringRightPartition(Context& context, const Value& self, const Arguments& arguments) {
  return Partition(context, self, arguments, true);
}

// The bytes that the optional bounds `start` and `end`, in code points, leave of a string.
struct Window {
  size_t begin = 0;
  size_t end = 0;
  bool valid = true;  // start is not behind the end
};
absl::StatusOr<Window> Bounds(const Value& self, const BoundArguments& bound, size_t first) {
  const std::string& bytes = self.bytes();
  if (!bound.Has(first) && !bound.Has(first + 1)) {
    return Window{0, bytes.size(), true};
  }
  const std::vector<size_t> offsets = CodePointOffsets(bytes);
  const auto size = static_cast<int64_t>(offsets.size()) - 1;
  TANDEM_ASSIGN_OR_RETURN(const int64_t start, bound.Get(first).IsNone()
                                                   ? absl::StatusOr<int64_t>(0)
                                                   : bound.Integer(first, 0));
  TANDEM_ASSIGN_OR_RETURN(const int64_t stop, bound.Get(first + 1).IsNone()
                                                  ? absl::StatusOr<int64_t>(size)
                                                  : bound.Integer(first + 1, 0));
  const auto place = [&](int64_t index) {
    return std::clamp<int64_t>(index < 0 ? std::max<int64_t>(index, -size) + size : index, 0, size);
  };
  Window window;
  window.valid = start <= size && place(start) <= place(stop);
  window.begin = offsets[static_cast<size_t>(place(start))];
  window.end = std::max(offsets[static_cast<size_t>(place(stop))], window.begin);
  return window;
}

Result Affix(Context& context, const Value& self, const Arguments& arguments, bool start) {
  TANDEM_ASSIGN_OR_RETURN(
      const BoundArguments bound,
      Bind(start ? "startswith" : "endswith", arguments, {"prefix", "start", "end"}, 1));
  TANDEM_ASSIGN_OR_RETURN(const Window window, Bounds(self, bound, 1));
  const std::string_view bytes =
      std::string_view(self.bytes()).substr(window.begin, window.end - window.begin);
  std::vector<Value> candidates{bound.Get(0)};
  if (bound.Get(0).is(Type::kTuple)) candidates = bound.Get(0).as<Sequence>().items;
  for (const Value& candidate : candidates) {
    TANDEM_RETURN_IF_ERROR(NeedString(start ? "startswith" : "endswith", candidate));
    const std::string& affix = candidate.bytes();
    TANDEM_RETURN_IF_ERROR(context.sandbox().Charge(static_cast<int64_t>(affix.size() / 16 + 1)));
    if (window.valid && affix.size() <= bytes.size() &&
        bytes.substr(start ? 0 : bytes.size() - affix.size(), affix.size()) == affix) {
      return Value::Bool(true, true);
    }
  }
  return Value::Bool(false, true);
}
Result StringStartsWith(Context& context, const Value& self, const Arguments& arguments) {
  return Affix(context, self, arguments, true);
}
Result StringEndsWith(Context& context, const Value& self, const Arguments& arguments) {
  return Affix(context, self, arguments, false);
}

Result RemoveAffix(Context& context, const Value& self, const Arguments& arguments, bool start) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("removeprefix/removesuffix", arguments, {"affix"}, 1));
  TANDEM_ASSIGN_OR_RETURN(const Value present, Affix(context, self, arguments, start));
  const size_t size = self.text().size();
  const size_t cut = present.boolean() ? bound.Get(0).bytes().size() : 0;
  return start ? Part(context, self, cut, size) : Part(context, self, 0, size - cut);
}
Result StringRemovePrefix(Context& context, const Value& self, const Arguments& arguments) {
  return RemoveAffix(context, self, arguments, true);
}
Result StringRemoveSuffix(Context& context, const Value& self, const Arguments& arguments) {
  return RemoveAffix(context, self, arguments, false);
}

Result Search(Context& context, const Value& self, const Arguments& arguments, bool from_right,
              bool must) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("find", arguments, {"sub", "start", "end"}, 1));
  TANDEM_RETURN_IF_ERROR(NeedString("find", bound.Get(0)));
  TANDEM_ASSIGN_OR_RETURN(const Window window, Bounds(self, bound, 1));
  const std::string_view bytes =
      std::string_view(self.bytes()).substr(window.begin, window.end - window.begin);
  const std::string& wanted = bound.Get(0).bytes();
  TANDEM_ASSIGN_OR_RETURN(const TextSearch search,
                          TextSearch::Make(context.sandbox(), wanted, bytes.size()));
  const size_t found = !window.valid ? std::string_view::npos
                       : from_right  ? search.Last(bytes, bytes.size())
                                     : search.First(bytes);
  if (found != std::string_view::npos) {
    return Value::Int(static_cast<int64_t>(
        CountCodePoints(std::string_view(self.bytes()).substr(0, window.begin + found))));
  }
  return must ? Result(InvalidArgument("index(): substring not found")) : Value::Int(-1);
}
Result StringFind(Context& context, const Value& self, const Arguments& arguments) {
  return Search(context, self, arguments, false, false);
}
Result StringRightFind(Context& context, const Value& self, const Arguments& arguments) {
  return Search(context, self, arguments, true, false);
}
Result StringIndex(Context& context, const Value& self, const Arguments& arguments) {
  return Search(context, self, arguments, false, true);
}
Result StringRightIndex(Context& context, const Value& self, const Arguments& arguments) {
  return Search(context, self, arguments, true, true);
}

Result StringCount(Context& context, const Value& self, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("count", arguments, {"sub", "start", "end"}, 1));
  TANDEM_RETURN_IF_ERROR(NeedString("count", bound.Get(0)));
  TANDEM_ASSIGN_OR_RETURN(const Window window, Bounds(self, bound, 1));
  const std::string_view bytes =
      std::string_view(self.bytes()).substr(window.begin, window.end - window.begin);
  const std::string& wanted = bound.Get(0).bytes();
  TANDEM_ASSIGN_OR_RETURN(const TextSearch search,
                          TextSearch::Make(context.sandbox(), wanted, bytes.size()));
  if (!window.valid) return Value::Int(0);
  if (wanted.empty()) return Value::Int(static_cast<int64_t>(CountCodePoints(bytes)) + 1);
  int64_t count = 0;
  for (size_t found = search.First(bytes); found != TextSearch::kNone;
       found = search.First(bytes, found + wanted.size())) {
    ++count;
  }
  return Value::Int(count);
}

Result StringReplace(Context& context, const Value& self, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("replace", arguments, {"old", "new", "count"}, 2));
  TANDEM_ASSIGN_OR_RETURN(const int64_t count, bound.Integer(2, -1));
  TANDEM_RETURN_IF_ERROR(NeedString("replace", bound.Get(0)));
  TANDEM_RETURN_IF_ERROR(NeedString("replace", bound.Get(1)));
  return Replace(context, self, bound.Get(0), bound.Get(1), count);
}

Result StringJoin(Context& context, const Value& self, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound, Bind("join", arguments, {"iterable"}, 1));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(context.sandbox(), bound.Get(0)));
  Text joined;
  for (size_t index = 0; index < items.size(); ++index) {
    TANDEM_RETURN_IF_ERROR(NeedString("join", items[index]));
    if (index != 0) joined.Append(self.text());
    if (self.markup()) {
      TANDEM_ASSIGN_OR_RETURN(const Text escaped, EscapedText(context.sandbox(), items[index]));
      joined.Append(escaped);
    } else {
      joined.Append(items[index].text());
    }
    TANDEM_RETURN_IF_ERROR(context.sandbox().CheckStringSize(joined.size()));
  }
  return context.sandbox().String(std::move(joined), self.markup());
}

Result StringFormat(Context& context, const Value& self, const Arguments& arguments) {
  return FormatBraces(context, self, arguments);
}
Result StringFormatMap(Context& context, const Value& self, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound, Bind("format_map", arguments, {"map"}, 1));
  if (!bound.Get(0).is(Type::kDict)) {
    return InvalidArgument("format_map() takes a dict, not {}", TypeName(bound.Get(0)));
  }
  Arguments named;
  for (const auto& [key, value] : bound.Get(0).as<Dict>().entries()) {
    if (key.IsString()) named.named.emplace_back(key.bytes(), value);
  }
  return FormatBraces(context, self, named);
}

// center, ljust, rjust and zfill: `left` of the padding's halves goes before the text.
Result Pad(Context& context, const Value& self, const Arguments& arguments,
           const std::function<int64_t(int64_t padding, int64_t width)>& left) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("center", arguments, {"width", "fillchar"}, 1));
  TANDEM_ASSIGN_OR_RETURN(const int64_t width, bound.Integer(0, 0));
  Text fill(" ", true);
  if (bound.Has(1)) {
    TANDEM_RETURN_IF_ERROR(NeedString("center", bound.Get(1)));
    if (bound.Get(1).text().CodePoints() != 1) {
      return InvalidArgument("the fill character must be one character");
    }
    fill = bound.Get(1).text();
  }
  const auto size = static_cast<int64_t>(self.text().CodePoints());
  if (width <= size) return self;
  // The width alone first, since a product that leaves 64 bits would look small.
  TANDEM_RETURN_IF_ERROR(context.sandbox().CheckStringSize(static_cast<size_t>(width)));
  TANDEM_RETURN_IF_ERROR(
      context.sandbox().CheckStringSize(static_cast<size_t>(width) * fill.size()));
  TANDEM_RETURN_IF_ERROR(context.sandbox().Charge(width / 8));
  const int64_t before = left(width - size, width);
  Text out;
  for (int64_t index = 0; index < before; ++index) out.Append(fill);
  out.Append(self.text());
  for (int64_t index = before; index < width - size; ++index) out.Append(fill);
  return context.sandbox().String(std::move(out), self.markup());
}
Result StringCenter(Context& context, const Value& self, const Arguments& arguments) {
  // CPython puts the odd blank left where the width is odd.
  return Pad(context, self, arguments,
             [](int64_t padding, int64_t width) { return padding / 2 + (padding & width & 1); });
}
Result StringLeftJustify(Context& context, const Value& self, const Arguments& arguments) {
  return Pad(context, self, arguments, [](int64_t, int64_t) { return int64_t{0}; });
}
Result StringRightJustify(Context& context, const Value& self, const Arguments& arguments) {
  return Pad(context, self, arguments, [](int64_t padding, int64_t) { return padding; });
}
Result StringZeroFill(Context& context, const Value& self, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound, Bind("zfill", arguments, {"width"}, 1));
  TANDEM_ASSIGN_OR_RETURN(const int64_t width, bound.Integer(0, 0));
  const auto size = static_cast<int64_t>(self.text().CodePoints());
  if (width <= size) return self;
  TANDEM_RETURN_IF_ERROR(context.sandbox().CheckStringSize(static_cast<size_t>(width)));
  const bool sign = size > 0 && (self.bytes()[0] == '-' || self.bytes()[0] == '+');
  Text out = self.text().Slice(0, sign ? 1 : 0);
  out.Append(std::string(static_cast<size_t>(width - size), '0'), true);
  out.Append(self.text(), sign ? 1 : 0, self.text().size());
  return context.sandbox().String(std::move(out), self.markup());
}

// is...() methods: not empty, and every character passes.
template <bool (*Predicate)(char32_t)>
Result StringIsAll(Context& context, const Value& self, const Arguments& arguments) {
  TANDEM_RETURN_IF_ERROR(Bind("this method", arguments, {}, 0).status());
  TANDEM_RETURN_IF_ERROR(context.sandbox().Charge(static_cast<int64_t>(self.text().size() / 16)));
  bool all = !self.text().empty();
  for (size_t offset = 0; all && offset < self.text().size();) {
    const CodePoint point = DecodeAt(self.bytes(), offset);
    all = Predicate(point.value);
    offset += point.length;
  }
  return Value::Bool(all, true);
}
bool IsAlphanumeric(char32_t value) { return IsAlpha(value) || IsDecimal(value); }

template <const char* const& Name>
Result StringIsCase(Context& context, const Value& self, const Arguments& arguments) {
  TANDEM_RETURN_IF_ERROR(Bind("this method", arguments, {}, 0).status());
  TANDEM_ASSIGN_OR_RETURN(const bool holds, context.ApplyTest(Name, self, {}));
  return Value::Bool(holds, true);
}
constexpr const char* kLowerTest = "lower";
constexpr const char* kUpperTest = "upper";

constexpr std::pair<std::string_view, Method> kMethods[] = {
    {"capitalize", StringMap<ToCapitalized>},
    {"casefold", StringMap<ToLower>},
    {"center", StringCenter},
    {"count", StringCount},
    {"endswith", StringEndsWith},
    {"find", StringFind},
    {"format", StringFormat},
    {"format_map", StringFormatMap},
    {"index", StringIndex},
    {"isalnum", StringIsAll<IsAlphanumeric>},
    {"isalpha", StringIsAll<IsAlpha>},
    {"isdecimal", StringIsAll<IsDecimal>},
    {"isdigit", StringIsAll<IsDecimal>},
    {"islower", StringIsCase<kLowerTest>},
    {"isnumeric", StringIsAll<IsDecimal>},
    {"isspace", StringIsAll<IsSpace>},
    {"isupper", StringIsCase<kUpperTest>},
    {"join", StringJoin},
    {"ljust", StringLeftJustify},
    {"lower", StringMap<ToLower>},
    {"lstrip", StringLeftStrip},
    {"partition", StringPartition},
    {"removeprefix", StringRemovePrefix},
    {"removesuffix", StringRemoveSuffix},
    {"replace", StringReplace},
    {"rfind", StringRightFind},
    {"rindex", StringRightIndex},
    {"rjust", StringRightJustify},
    {"rpartition", StringRightPartition},
    {"rsplit", StringRightSplit},
    {"rstrip", StringRightStrip},
    {"split", StringSplit},
    {"splitlines", StringSplitLines},
    {"startswith", StringStartsWith},
    {"strip", StringStrip},
    {"swapcase", StringMap<SwapCase>},
    {"title", StringMap<ToTitle>},
    {"upper", StringMap<ToUpper>},
    {"zfill", StringZeroFill},
};

}  // namespace

Method FindStringMethod(std::string_view name) {
  const auto* const found = std::find_if(std::begin(kMethods), std::end(kMethods),
                                         [&](const auto& entry) { return entry.first == name; });
  return found == std::end(kMethods) ? nullptr : found->second;
}

Result Strip(Context& context, const Value& text, const Value& characters, bool left, bool right) {
  const std::string& bytes = text.bytes();
  size_t begin = 0;
  size_t end = bytes.size();
  if (characters.IsNone()) {
    begin = left ? SkipSpace(bytes, 0, end) : 0;
    end = right ? SkipSpaceBack(bytes, begin, end) : end;
    return Part(context, text, begin, end);
  }
  TANDEM_RETURN_IF_ERROR(NeedString("strip", characters));
  const std::vector<size_t> offsets = CodePointOffsets(bytes);
  const std::string_view set = characters.bytes();
  TANDEM_RETURN_IF_ERROR(
      context.sandbox().Charge(static_cast<int64_t>(bytes.size() / 8 + set.size() / 2)));
  std::unordered_set<std::string_view> stripped_characters;
  for (size_t offset = 0; offset < set.size();) {
    const size_t length = DecodeAt(set, offset).length;
    stripped_characters.insert(set.substr(offset, length));
    offset += length;
  }
  const auto stripped = [&](size_t index) {
    return stripped_characters.contains(
        std::string_view(bytes).substr(offsets[index], offsets[index + 1] - offsets[index]));
  };
  size_t first = 0;
  size_t last = offsets.size() - 1;
  while (left && first < last && stripped(first)) {
    ++first;
  }
  while (right && last > first && stripped(last - 1)) {
    --last;
  }
  return Part(context, text, offsets[first], offsets[last]);
}

Result Replace(Context& context, const Value& text, const Value& from, const Value& to,
               int64_t count) {
  const std::string& bytes = text.bytes();
  const std::string& wanted = from.bytes();
  Text replacement = to.text();
  if (text.markup()) {
    TANDEM_ASSIGN_OR_RETURN(replacement, EscapedText(context.sandbox(), to));
  }
  TANDEM_ASSIGN_OR_RETURN(const TextSearch search_for,
                          TextSearch::Make(context.sandbox(), wanted, bytes.size()));
  Text out;
  size_t begin = 0;
  size_t search = 0;
  while (count != 0) {
    // An empty pattern matches before every character and at the end.
    const size_t found = wanted.empty() ? search : search_for.First(bytes, search);
    if (found == std::string::npos || found > bytes.size()) break;
    out.Append(text.text(), begin, found);
    out.Append(replacement);
    TANDEM_RETURN_IF_ERROR(context.sandbox().Charge(1));
    TANDEM_RETURN_IF_ERROR(context.sandbox().CheckStringSize(out.size()));
    begin = found + wanted.size();
    if (!wanted.empty()) {
      search = begin;
    } else {
      search = found < bytes.size() ? found + DecodeAt(bytes, found).length : bytes.size() + 1;
    }
    --count;
  }
  out.Append(text.text(), begin, bytes.size());
  return context.sandbox().String(std::move(out), text.markup());
}

}  // namespace tandem::frontend::jinja
