#include "launcher/options/command_words.h"

#include <algorithm>
#include <cstdlib>
#include <regex>

#include "fmt/format.h"
#include "launcher/options/option_words.h"

namespace tandem::launcher {

bool IsSet(const std::string& variable) {
  const char* value = variable.empty() ? nullptr : std::getenv(variable.c_str());
  return value != nullptr && *value != '\0';
}

std::vector<std::string> WithEmptyValues(const std::vector<std::string>& words) {
  std::vector<std::string> split;
  for (const std::string& word : words) {
    const bool empty_value = word.starts_with("--") && word.find('=') == word.size() - 1;
    split.push_back(empty_value ? word.substr(0, word.size() - 1) : word);
    if (empty_value) split.emplace_back();
  }
  return split;
}

namespace {

/// "-n"; empty: it has none.
std::string ShortName(const OptionRow& row) {
  const size_t comma = row.name.find(',');
  return comma == std::string::npos ? "" : row.name.substr(0, comma);
}

}  // namespace

std::string TypedName(const OptionRow& row, const std::vector<std::string>& words) {
  const std::string short_name = ShortName(row);
  for (const std::string& word : words) {
    if (word.substr(0, word.find('=')) == row.flag()) return row.flag();
    if (!short_name.empty() && word.starts_with(short_name)) return short_name;
  }
  return "";
}

std::string EmptyValue(const std::vector<OptionRow>& rows, const std::vector<std::string>& words) {
  const std::vector<std::string> split = WithEmptyValues(words);
  for (const OptionRow& row : rows) {
    std::string empty;
    const std::string wrong = CheckWord(row.value, empty);
    if (wrong.empty()) continue;
    const std::string variable = row.environment();
    const bool there = !variable.empty() && std::getenv(variable.c_str()) != nullptr;
    if (there && !IsSet(variable) && TypedName(row, words).empty()) {
      return fmt::format("{}: {}", variable, wrong);
    }
    if (row.value.unit != Unit::kSeconds) continue;
    const auto flag = std::find(split.begin(), split.end(), row.flag());
    if (flag < split.end() - 1 && (flag + 1)->empty()) {
      return fmt::format("{}: {}", row.flag(), wrong);
    }
  }
  return "";
}

std::string InOurWords(const std::string& message, const std::vector<OptionRow>& rows) {
  for (const OptionRow& row : rows) {
    if (message != row.flag() + " is required") continue;
    const std::string short_name = ShortName(row);
    return fmt::format("{} is required: {}", short_name.empty() ? row.flag() : short_name,
                       row.help);
  }
  std::smatch match;
  static const std::regex kTwice("^(\\S+): At Most 1 required but received (\\d+)$");
  if (std::regex_match(message, match, kTwice)) {
    return fmt::format("{} is given {} times; give it once", match[1].str(), match[2].str());
  }
  static const std::regex kNoValue("^(\\S+): 1 required (.*) missing$");
  if (std::regex_match(message, match, kNoValue)) {
    const auto row = std::find_if(rows.begin(), rows.end(),
                                  [&](const auto& one) { return one.flag() == match[1].str(); });
    return fmt::format("{} has no value; expected {}", match[1].str(),
                       row == rows.end() ? match[2].str() : ExpectedText(row->value));
  }
  static const std::regex kTooMany("^The following arguments? (?:was|were) not expected: ");
  if (std::regex_search(message, match, kTooMany)) {
    return fmt::format("'{}' is one argument too many", match.suffix().str());
  }
  if (message == "A subcommand is required") return "a command is missing";
  return message;
}

}  // namespace tandem::launcher
