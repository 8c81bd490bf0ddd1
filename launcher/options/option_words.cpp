#include "launcher/options/option_words.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <type_traits>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "frontend/text/utf8.h"
#include "launcher/options/flag_parsers.h"

namespace tandem::launcher {
namespace {

template <typename T>
struct ElementOf {
  using Type = T;
  static constexpr bool kList = false;
};
template <typename T>
struct ElementOf<std::optional<T>> : ElementOf<T> {};
template <typename T>
struct ElementOf<std::vector<T>> {
  using Type = T;
  static constexpr bool kList = true;
};
template <typename Pointer>
using TargetOf = ElementOf<std::remove_pointer_t<Pointer>>;

bool IsSeed(const OptionValue& value) {
  return std::holds_alternative<std::optional<uint64_t>*>(value.target);
}

bool HasLimits(const OptionValue& value) { return value.limits.least < value.limits.most; }

/// A limit as the option's words have it.
std::string LimitText(double limit, Unit unit) {
  if (unit == Unit::kSize && limit >= 1024) {
    constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB", "PiB"};
    size_t i = 0;
    for (limit /= 1024; limit >= 1024; limit /= 1024) ++i;
    return fmt::format("{}{}", limit, kUnits[i]);
  }
  if (unit == Unit::kAge && limit > 0) return fmt::format("{}d", limit / 86400);
  return limit < 1e15 ? fmt::format("{}", limit) : fmt::format("{:.0f}", limit);
}

/// "whole number from 1 to 512": what an option is whose target is a Number.
template <typename Number>
std::string NumberText(const OptionValue& value) {
  const auto [noun, least, most] = [&]() -> std::array<std::string, 3> {
    if (IsSeed(value)) return {"whole number", "0", "2^64 - 1"};
    const char* plain = std::is_integral_v<Number> ? "whole number" : "number";
    if (!HasLimits(value)) return {plain, "", ""};
    return {value.unit == Unit::kSize  ? "size"
            : value.unit == Unit::kAge ? "age"
                                       : plain,
            LimitText(value.limits.least, value.unit), LimitText(value.limits.most, value.unit)};
  }();
  return least.empty() ? noun : fmt::format("{} from {} to {}", noun, least, most);
}

/// given: the word as somebody wrote it.
template <typename Number>
std::string CheckNumber(const OptionValue& value, const std::string& given, std::string& word) {
  const std::optional<Number> number = ParseNumber<Number>(word);
  const auto real = static_cast<double>(number.value_or(0));
  const auto [least, most] = value.limits;
  if (!number || (HasLimits(value) && !(real >= least && real <= most))) {
    return fmt::format("'{}' is no {}", given, NumberText<Number>(value));
  }
  word = fmt::format("{}", *number);
  return "";
}

std::string CheckFlag(std::string& word) {
  std::string lower = word;
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  for (const char* yes : {"true", "1", "yes", "on"}) {
    if (lower == yes) return word = "true", "";
  }
  for (const char* no : {"false", "0", "no", "off"}) {
    if (lower == no) return word = "false", "";
  }
  return fmt::format("'{}': expected true or false", word);
}

std::string CheckText(const OptionValue& value, const std::string& word) {
  const auto& choices = value.choices;
  if (!choices.empty() && std::find(choices.begin(), choices.end(), word) == choices.end()) {
    return fmt::format("'{}' is none of {}", word, fmt::join(choices, ", "));
  }
  if (value.unit == Unit::kPath && word == "-") {
    return "'-' is no standard stream here: give a path (./- for a file of that name)";
  }
  if (value.unit != Unit::kText) return "";
  if (const size_t valid = frontend::ValidUtf8Prefix(word); valid < word.size()) {
    return fmt::format("byte {} of the text, 0x{:02X}, is no UTF-8", valid,
                       static_cast<unsigned char>(word[valid]));
  }
  const auto bytes = static_cast<double>(word.size());
  if (bytes >= value.limits.least && bytes <= value.limits.most) return "";
  return fmt::format("expected a text of {} to {} bytes, found {}", value.limits.least,
                     value.limits.most, word.size());
}

/// The number that a word with a unit says.
std::string Translate(Unit unit, std::string& word) {
  const auto with = [&word](const auto& parsed) {
    if (!parsed.ok()) return Message(parsed.status());
    word = fmt::format("{}", *parsed);
    return std::string();
  };
  if (unit == Unit::kSize) return with(ParseSize(word));
  if (unit == Unit::kAge) return with(ParseAge(word));
  if (unit != Unit::kSeconds) return "";
  if (word == "true") word = fmt::format("{}", kSecondsAlone);
  return with(ParseSeconds(word));
}

/// One that is no list, or an entry of one.
std::string CheckOne(const OptionValue& value, std::string& word) {
  if (word.empty() && (value.unit != Unit::kText || value.limits.least > 0)) {
    return "it is empty: give a value, or leave it out";
  }
  const std::string given = word;
  if (std::string wrong = Translate(value.unit, word); !wrong.empty()) return wrong;
  return std::visit(
      [&](auto* target) {
        using Element = typename TargetOf<decltype(target)>::Type;
        if constexpr (std::is_same_v<Element, bool>) {
          return CheckFlag(word);
        } else if constexpr (std::is_same_v<Element, std::string>) {
          return CheckText(value, word);
        } else if constexpr (std::is_floating_point_v<Element>) {
          return CheckNumber<double>(value, given, word);
        } else if constexpr (std::is_unsigned_v<Element>) {
          return CheckNumber<uint64_t>(value, given, word);
        } else {
          return CheckNumber<int64_t>(value, given, word);
        }
      },
      value.target);
}

}  // namespace

std::string CheckWord(const OptionValue& value, std::string& word) {
  if (!TakesCommas(value) || word.empty()) return CheckOne(value, word);
  std::string checked;
  for (std::string& entry : SplitAtCommas(word)) {
    if (entry.empty()) return fmt::format("'{}' has nothing before or behind a comma", word);
    if (std::string wrong = CheckOne(value, entry); !wrong.empty()) return wrong;
    checked += (checked.empty() ? "" : ",") + entry;
  }
  word = std::move(checked);
  return "";
}

std::vector<std::string> SplitAtCommas(const std::string& word) {
  std::vector<std::string> entries;
  for (size_t begin = 0; begin <= word.size();) {
    const size_t end = std::min(word.find(',', begin), word.size());
    entries.push_back(word.substr(begin, end - begin));
    begin = end + 1;
  }
  return entries;
}

std::string AllowedText(const OptionValue& value) {
  if (!value.choices.empty()) return fmt::format("{{{}}}", fmt::join(value.choices, ","));
  if (IsSeed(value)) return "in [0 - 2^64 - 1]";
  if (!HasLimits(value) || value.unit == Unit::kText) return "";
  return fmt::format("in [{} - {}]", LimitText(value.limits.least, value.unit),
                     LimitText(value.limits.most, value.unit));
}

std::string ExpectedText(const OptionValue& value) {
  if (!value.choices.empty()) return fmt::format("one of {}", fmt::join(value.choices, ", "));
  return std::visit(
      [&](auto* target) -> std::string {
        using Element = typename TargetOf<decltype(target)>::Type;
        if constexpr (std::is_same_v<Element, bool>) {
          return "true or false";
        } else if constexpr (std::is_same_v<Element, std::string>) {
          return "";
        } else {
          return (value.unit == Unit::kAge ? "an " : "a ") + NumberText<Element>(value);
        }
      },
      value.target);
}

bool TakesList(const OptionValue& value) {
  return std::visit([](auto* target) { return TargetOf<decltype(target)>::kList; }, value.target);
}

bool TakesCommas(const OptionValue& value) {
  return TakesList(value) && !std::holds_alternative<std::vector<std::string>*>(value.target);
}

}  // namespace tandem::launcher
